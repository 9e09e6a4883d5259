"""A server obeys a signal from the moment at which it says where it listens."""

from __future__ import annotations

import os
import signal

import pytest
from starlette.applications import Starlette

from calibadv.io.serving import GracefulServer, listen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_with_the_address_ends_the_server(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    server = GracefulServer(Starlette(), grace_s=1)
    listener = listen("127.0.0.1", 0, token=None, token_variable="TOKEN")
    server.serve_on(listener, host="127.0.0.1", on_listening=lambda url: os.kill(os.getpid(), number))
    assert listener.fileno() == -1, "it came back, and its socket is closed"
    assert signal.getsignal(number) is before
