"""The journal: what is in it is on disk, once."""

import json
from pathlib import Path

import pytest

from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.evaluation import Journal
from calibadv.io.clock import FakeClock
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn


def played(name: str, *, sample: int = 0, stop: StopReason = StopReason.ANSWER, text: str = "ok") -> Trajectory:
    question = Question(id=name, text="?", golden_answers=("a",), dataset="d", metadata={"odd": float("inf")})
    turn = Turn(text=text, action=Action(ActionKind.ANSWER, "a"))
    return Trajectory(question=question, rollout_index=sample, prompt="p", turns=(turn,), stop_reason=stop)


def test_records_are_on_disk_at_once_and_read_as_trajectories(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(played("1", text="half a pair \ud800"), 0.5)
        assert [record.trajectory.question.id for record in read_trajectories(path, strict=True)] == ["1"]
        journal.add(played("1", sample=1), 0.25)
    with Journal(path) as again:
        assert list(again.finished) == [("d", "1", 0), ("d", "1", 1)]
        assert again.latency_s == {("d", "1", 0): 0.5, ("d", "1", 1): 0.25}


def test_a_rollout_is_kept_once_unless_it_had_failed(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(played("1", text="first"), 0.1)
        journal.add(played("2", stop=StopReason.SEARCH_FAILED), 0.1)
    with Journal(path) as journal:
        journal.add(played("1", text="second"), 0.1)
        journal.add(played("2"), 0.1)
    assert path.read_bytes().count(b"\n") == 1 + 3
    with Journal(path) as journal:
        assert journal.finished["d", "1", 0].turns[0].text == "first"
        assert not journal.finished["d", "2", 0].failed


def test_wall_clock_adds_up_over_sessions(tmp_path: Path) -> None:
    clock = FakeClock()
    path = tmp_path / "j.jsonl"
    for number in range(2):
        with Journal(path, clock=clock) as journal:
            journal.start("d")
            clock.time += 3.0
            journal.add(played(str(number)), 3.0)
    with Journal(path) as journal:
        assert journal.seconds("d") == 6.0


@pytest.mark.parametrize("line", ['{"broken', '{"question": {}}', "[1]"])
def test_a_damaged_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(played("1"), 0.1)
    path.write_text(path.read_text() + line + "\n" + json.dumps({}) + "\n")
    with pytest.raises(DataError, match=r"j\.jsonl"):
        Journal(path)


def test_two_evaluations_never_write_into_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        with pytest.raises(ConfigError, match="another evaluation is writing"):
            Journal(path)
        journal.add(played("1"), 0.1)
    with Journal(path) as again:
        assert len(again.finished) == 1


def test_a_damaged_journal_can_be_opened_by_whoever_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path).__exit__(None, None, None)
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"id": 1}\n')
    with pytest.raises(DataError):
        Journal(path)
    path.write_bytes(sound)
    with Journal(path) as again:
        assert again.finished == {}
