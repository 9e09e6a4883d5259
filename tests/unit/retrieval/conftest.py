"""What tests of several retrievers need."""

import os
import signal
import warnings

import pytest


@pytest.fixture
def fork():
    """``fork(call)`` runs it in a forked process and returns its id; the exit status is 0 when nothing was raised."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")

    def start(call):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of what this is about
            process = os.fork()
        if process == 0:
            try:
                signal.alarm(20)
                call()
                os._exit(0)
            finally:
                os._exit(1)
        return process

    return start
