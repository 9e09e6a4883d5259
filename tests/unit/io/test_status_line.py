"""What is being waited for, on a terminal and in a log."""

import io
import logging
import threading

import pytest

from calibadv.io.clock import FakeClock
from calibadv.io.terminal import StatusLine

logger = logging.getLogger(__name__)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_written_over_and_removed() -> None:
    terminal = Terminal()
    with StatusLine(logger, stream=terminal) as status:
        status.show("waiting, 9 s")
        status.show("waiting,\x1b[2J 8 s")
    assert terminal.getvalue().split("\r\x1b[K") == ["", "waiting, 9 s", "waiting,\N{REPLACEMENT CHARACTER}[2J 8 s", ""]


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock, stream = FakeClock(), io.StringIO()
    with caplog.at_level(logging.INFO), StatusLine(logger, stream=stream, every_s=10.0, clock=clock) as status:
        for second in range(21):
            status.show(f"waiting {second}")
            clock.wait(1.0, stop=threading.Event())
    assert caplog.messages == ["waiting 0", "waiting 10", "waiting 20"]
    assert not stream.getvalue()
