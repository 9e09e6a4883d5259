"""What one check says: fine, doubtful, or in the way, with what to do about it."""

from __future__ import annotations

import textwrap
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


_MARKS = {Level.OK: "ok     ", Level.WARNING: "WARNING", Level.BLOCKER: "BLOCKER"}
WIDTH = 112
"""Columns of a check as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check."""

    name: str
    level: Level = Level.OK
    summary: str
    """What was found, in plain words."""
    remedy: str = ""
    """What to do about it; dropped when all is well."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The figures behind it, as plain values."""

    def __post_init__(self) -> None:
        if self.level is Level.OK:
            object.__setattr__(self, "remedy", "")

    def as_row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"level": str(self.level)}

    def as_text(self) -> str:
        """A few lines for a terminal."""
        lines = textwrap.wrap(self.summary, WIDTH - 26) or [""]
        remedy = textwrap.wrap(self.remedy, WIDTH - 29)
        lines += [f"-> {line}" if number == 0 else f"   {line}" for number, line in enumerate(remedy)]
        start = f"{_MARKS[self.level]}  {self.name:<15}"
        return "\n".join(f"{start if number == 0 else ' ' * 24}  {line}" for number, line in enumerate(lines))


class Blocked(CalibAdvError):
    """At least one check is a blocker: the run would fail or learn nothing."""


def worst(checks: Sequence[Check]) -> Level:
    """The gravest level among the checks.

    >>> worst([Check(name="a", summary="fine"), Check(name="b", level=Level.WARNING, summary="hm")])
    <Level.WARNING: 'warning'>
    """
    levels = [check.level for check in checks]
    return max(levels, key=list(Level).index, default=Level.OK)


def verdict(checks: Sequence[Check]) -> str:
    """What all checks together say.

    >>> verdict([Check(name="a", summary="fine"), Check(name="b", level=Level.WARNING, summary="hm")])
    'This run would start; 1 warning to think about first.'
    """
    level = worst(checks)
    count = sum(check.level is level for check in checks)
    if level is Level.OK:
        return "Nothing stands in the way of this run."
    noun = str(level) if count == 1 else f"{level}s"
    if level is Level.WARNING:
        return f"This run would start; {count} {noun} to think about first."
    return f"This run would fail or teach nothing: {count} {noun}."


def guarded(name: str, examine: Callable[[], Check | list[Check]], *, remedy: str = "") -> list[Check]:
    """The check's outcome; an error of ours, or of the machine, becomes a blocker that carries its message."""
    try:
        found = examine()
    except (CalibAdvError, OSError) as error:
        return [Check(name=name, level=Level.BLOCKER, summary=f"{type(error).__name__}: {error}", remedy=remedy)]
    return found if isinstance(found, list) else [found]
