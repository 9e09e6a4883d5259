"""The errors of calibadv, one small tree.

::

    CalibAdvError
    ├── ConfigError         (also ValueError)       a setting is unknown, has the wrong type or an impossible value
    ├── DataError           (also ValueError)       a file, row or record cannot be used
    ├── RetrieverError      (also RuntimeError)     a search failed
    │   └── RetrieverUnavailable                    the retriever was unreachable at every attempt
    ├── PolicyError         (also RuntimeError)     the policy cannot generate (NaN logits, context too small)
    │   └── EngineFailed                            the engine that writes failed; the weights being trained are intact
    ├── ProcessLost         (also RuntimeError)     another process of the run is gone
    ├── SaveError           (also OSError)          a checkpoint or a model could not be written
    └── TokenMismatchError  (also AssertionError)   trained token ids differ from the sampled ones

Each class also inherits the standard error that it replaces. To add one: derive from the nearest class here, say in its
docstring who raises it, and name in every message the setting, the value and the remedy.
"""

from typing import Any


class CalibAdvError(Exception):
    """Base class: ``except CalibAdvError`` catches whatever the package raises on purpose."""


class ConfigError(CalibAdvError, ValueError):
    """A setting is unknown, has the wrong type or an impossible value."""


class DataError(CalibAdvError, ValueError):
    """A file, row or record cannot be used; the message names the file and the line."""


class RetrieverError(CalibAdvError, RuntimeError):
    """A search failed. It never becomes an empty result.

    ``is_transient`` says whether the same search may succeed later (True, as after a broken connection), cannot
    (False), or that nobody knows (None, the default); ``retry_after_s`` is what a server asked to wait. Rollouts retry
    a transient failure until `rollout.search_timeout_s` is over, one of unknown kind a few times, and a final one not
    at all.
    """

    def __init__(
        self, message: str = "", *, is_transient: bool | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s


class RetrieverUnavailable(RetrieverError):
    """The retriever was unreachable at every attempt; a run saves its state and stops."""

    trajectories: tuple[Any, ...] = ()
    """What a rollout had finished by then (`calibadv.trajectory.Trajectory`)."""


class PolicyError(CalibAdvError, RuntimeError):
    """The policy cannot generate: logits that are not finite, a prompt too long, a server gone."""

    trajectories: tuple[Any, ...] = ()
    """What a rollout had finished by then (`calibadv.trajectory.Trajectory`)."""


class EngineFailed(PolicyError):
    """The engine that writes the turns of a run failed or refused new weights; the run saves its state and stops."""


class TokenMismatchError(CalibAdvError, AssertionError):
    """The token ids about to be trained differ from those that were sampled."""


class ProcessLost(CalibAdvError, RuntimeError):
    """Another process of a training run has ended or does not answer; the run continues from its last checkpoint."""


class SaveError(CalibAdvError, OSError):
    """A checkpoint or a model could not be written, for instance because the disk is full; older ones are intact."""


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough for a message.

    >>> first_line(ValueError("\\n no such file:\\nsee above")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return next((line.strip(" :") for line in str(error).splitlines() if line.strip(" :")), type(error).__name__)[:300]
