"""What one check says: fine, doubtful, or in the way, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from calibadv.errors import CalibAdvError

TIGHT = 0.8
"""Share of the free memory or disk from which on it is called tight."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """The run would start, but something is worth knowing first."""
    BLOCKER = "blocker"
    """The run would fail, or learn nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check."""

    name: str
    level: Level = Level.OK
    summary: str
    """What was found, in plain words."""
    remedy: str = ""
    """What to do about it; empty when all is well."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The figures behind it, as plain values."""

    def as_row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"level": str(self.level)}


class Blocked(CalibAdvError):
    """At least one check is a blocker: the run would fail or learn nothing."""


def worst(checks: Sequence[Check]) -> Level:
    """The gravest level among the checks.

    >>> worst([Check(name="a", summary="fine"), Check(name="b", level=Level.WARNING, summary="hm")])
    <Level.WARNING: 'warning'>
    """
    levels = [check.level for check in checks]
    return max(levels, key=list(Level).index, default=Level.OK)


def guarded(name: str, examine: Callable[[], Check | list[Check]], *, remedy: str = "") -> list[Check]:
    """The check's outcome; an error of ours, or of the machine, becomes a blocker that carries its message."""
    try:
        found = examine()
    except (CalibAdvError, OSError) as error:
        return [Check(name=name, level=Level.BLOCKER, summary=f"{type(error).__name__}: {error}", remedy=remedy)]
    return found if isinstance(found, list) else [found]
