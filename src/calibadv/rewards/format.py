"""The format check: think, search, information, (think, search, information)*, think, answer.

The verdict comes from the trajectory's structure and from what the model wrote, turn by turn, the think prefill counted
in. Documents and questions have no say; the published code reads the decoded text of everything and can be fooled.
"""

from __future__ import annotations

from calibadv.tags import ROLE_TAG, THINK_OPEN
from calibadv.trajectory import Trajectory


def is_well_formed(trajectory: Trajectory) -> bool:
    """Whether the trajectory is a clean sequence with at least one search.

    Args:
        trajectory: A finished episode.

    Returns:
        True where `format_problem` finds none. Source: the format reward of the paper, a factor of 0 or 1.
    """
    return format_problem(trajectory) is None


def format_problem(trajectory: Trajectory) -> str | None:
    """Why the trajectory is not well formed, in words.

    Args:
        trajectory: A finished episode.

    Returns:
        The first problem, for instance ``turn 2: text before the think tag``; None when there is none.
    """
    if not trajectory.turns:
        return "no turn was generated"
    last = len(trajectory.turns)
    opened = trajectory.think_prefill
    for number, turn in enumerate(trajectory.turns, start=1):
        text = THINK_OPEN + turn.text if opened else turn.text
        problem = turn_problem(text, action="answer" if number == last else "search")
        if problem is None and number < last and not turn.observation:
            problem = "the search has no observation"
        if problem is not None:
            return f"turn {number}: {problem}"
        opened = trajectory.think_prefill and turn.observation.endswith(THINK_OPEN)
    if last == 1:
        return "no search before the answer"
    return None


def turn_problem(text: str, *, action: str) -> str | None:
    """Why a turn is not one think block, then one block of its action, with only white space around.

    Args:
        text: What the model wrote, the prefilled think tag included.
        action: "search" or "answer".

    Returns:
        The first problem, in words; None when there is none.

    >>> turn_problem("<think> hm </think> so <search> x </search>", action="search")
    'text between the thinking and the search tag'
    """
    tags = list(ROLE_TAG.finditer(text))
    names = [tag[0] for tag in tags]
    wanted = ["<think>", "</think>", f"<{action}>", f"</{action}>"]
    if not names:
        return "no tags at all" if text.strip() else "nothing was written"
    for position, want in enumerate(wanted):
        got = names[position] if position < len(names) else None
        if got != want:
            return _wrong_tag(got, want, action)
    outside = (
        (text[: tags[0].start()], "text before the think tag"),
        (text[tags[1].end() : tags[2].start()], f"text between the thinking and the {action} tag"),
    )
    for gap, problem in outside:
        if gap.strip():
            return problem
    if len(names) > len(wanted):
        return f"{names[len(wanted)]} after the {action} is closed"
    if text[tags[3].end() :].strip():
        return f"text after the {action}"
    return None


def _wrong_tag(got: str | None, want: str, action: str) -> str:
    if got is None:
        return f"{want} is missing"
    if want == "<think>":
        return f"starts with {got} instead of <think>"
    if want == "</think>":
        return f"{got} inside of the thinking"
    if want == f"<{action}>":
        if got in ("<search>", "<answer>"):
            return "a search in the last turn" if got == "<search>" else "an answer before the last turn"
        return f"{got} between the thinking and the {action}"
    return f"{got} inside of the {action}"
