"""SIGINT and SIGTERM during training: the first asks for a checkpoint and an orderly end, the second ends at once.

A signal before the first batch ends the run there: nothing can be lost. One during a rollout or an evaluation ends it
there too, because the weights are then those of the last completed batch and can be saved. During an update it waits
for the end of the batch: half a batch cannot be resumed.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calibadv.io.signals import handled

logger = logging.getLogger(__name__)

HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopRequested(KeyboardInterrupt):
    """Somebody wants the run to end; its state can be saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """A context in which SIGINT and SIGTERM are requests."""

    def __init__(self) -> None:
        self.requested: int | None = None
        """The signal that asked for the end, if one did."""
        self.started = False
        """Whether the first batch has begun: until then a request ends the run at once."""
        self.one_process = True
        """With several processes none may leave a batch alone: the others would wait for it for ever."""
        self._inside = 0
        self._handlers = ExitStack()

    def __enter__(self) -> StopSignals:
        self._handlers.enter_context(handled(self._handle, *HANDLED))
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, a request raises `StopRequested` at once; one that came before raises it on entering."""
        if not self.one_process:
            yield
            return
        if self.requested is not None:
            raise StopRequested(self.requested)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def check(self) -> None:
        """Raise `StopRequested` if somebody asked."""
        if self.requested is not None:
            raise StopRequested(self.requested)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signum
        if not self.started:
            logger.warning("%s: stopping before the first batch", signal.Signals(signum).name)
            raise StopRequested(signum)
        what = "leaving this batch" if self._inside and self.one_process else "finishing this batch"
        logger.warning("%s: %s, then a checkpoint is saved; once more stops at once", signal.Signals(signum).name, what)
        if self._inside:
            raise StopRequested(signum)


class StopAtBatchEnd(TrainerCallback):
    """Saves and stops at the end of a batch once a signal has come, to any of the processes."""

    def __init__(self, stop: StopSignals, *, updates_per_batch: int, num_processes: int) -> None:
        self.stop = stop
        self.updates_per_batch = updates_per_batch
        self.num_processes = num_processes
        stop.one_process = num_processes == 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called when weights, optimizer and random state are in place."""
        self.stop.started = True
        self.stop.check()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called after every optimizer step."""
        if state.global_step % self.updates_per_batch:
            return
        requested = self.stop.requested
        if self.num_processes > 1:
            requested = next((signum for signum in gather_object([requested]) if signum is not None), None)
            self.stop.requested = requested
        if requested is not None:
            control.should_save = True
            control.should_training_stop = True
