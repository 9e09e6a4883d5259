"""The page holds everything it shows, and nothing that it shows can get out of its place."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.report.page import inline, write_page
from calibadv.trajectory import Action, ActionKind, Credit, Document, Question, StopReason, Trajectory, Turn

MakeRun = Callable[..., Path]
ATTACK = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>'


def record(step: int, *, rollout_index: int = 0, reward: float = 1.0, text: str = "Oslo") -> Record:
    question = Question(id="q1", text=f"Where? {text}", golden_answers=("Oslo", text))
    search = Turn(
        text=f"<think> look {text} </think><search> {text} </search>",
        thinking=f"look {text}",
        action=Action(ActionKind.SEARCH, text),
        documents=(Document(id=f"d{text}", title=f"T {text}", text=f"Body {text}"),),
        observation="\n\n<information>Doc 1(Title: ...) ...</information>\n\n",
    )
    answer = Turn(text=f"<answer> {text} </answer>", action=Action(ActionKind.ANSWER, text))
    trajectory = Trajectory(
        question=question, rollout_index=rollout_index, prompt="", turns=(search, answer), stop_reason=StopReason.ANSWER
    )
    credit = Credit(
        group_id="g1",
        reward=reward,
        scores={"f1": reward},
        format_valid=True,
        correctness=(0.5, 0.0),
        advantages=(-0.8, -0.8),
        calibrated=(-0.4, -1.6),
    )
    return Record(trajectory=trajectory, credit=credit, step=step)


class Tags(HTMLParser):
    """Every element of a page with its attributes, and that elements close in order."""

    VOID = frozenset({"meta", "path", "use", "rect", "circle", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    return tags


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run whose every text is an attack."""
    folder = tmp_path_factory.mktemp("page") / "run<b>"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "f1": 0.25, "entropy": 1.0}\n{"step": 2, "f1": 0.5}\n', encoding="utf-8"
    )
    for step in range(1, 8):
        records = [
            record(step, reward=1.0, text=ATTACK),
            record(step, rollout_index=1, reward=0.0, text="\x00\u202eno"),
        ]
        write_trajectories(folder / "trajectories" / f"step-{step:06d}.jsonl.gz", records)
    path = write_page(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed(run_page: str) -> None:
    assert len(parsed(run_page).elements) > 100


def test_untrusted_text_stays_text(run_page: str) -> None:
    tags = parsed(run_page).elements
    assert not [tag for tag, _ in tags if tag in {"script", "img", "iframe", "object", "b>"}]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;" in run_page
    assert "\x00" not in run_page


def test_page_loads_nothing_from_elsewhere(run_page: str) -> None:
    for tag, attributes in parsed(run_page).elements:
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
    assert "@import" not in run_page
    assert not re.search(r"url\((?!#)", run_page)


def test_ids_are_unique_and_every_reference_has_its_target(run_page: str) -> None:
    elements = parsed(run_page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:url\(|href=")#([\w-]+)', run_page)
    assert set(targets) <= set(ids)


def test_summary_tells_first_and_last(run_page: str) -> None:
    assert "<td>training F1</td><td>0.250 → 0.500</td>" in run_page


def test_a_few_steps_are_shown_the_first_and_the_last_among_them(run_page: str) -> None:
    assert re.findall(r"<h3>Step (\d+)", run_page) == ["1", "3", "5", "7"]


def test_each_turn_shows_its_advantage_before_and_after_and_its_correctness(run_page: str) -> None:
    assert 'advantage <span class="negative">-0.80</span> before, <span class="negative">-0.40</span> after' in run_page
    assert "query correctness 0.50" in run_page


def test_a_turn_that_calibration_left_alone_has_one_advantage(make_run: MakeRun) -> None:
    folder = make_run("grpo")
    plain = record(1)
    assert plain.credit is not None
    credit = replace(plain.credit, calibrated=plain.credit.advantages)
    write_trajectories(folder / "trajectories" / "step-000001.jsonl.gz", [replace(plain, credit=credit)])
    page = write_page(folder).read_text(encoding="utf-8")
    assert '<span>advantage <span class="negative">-0.80</span></span>' in page
    assert "after calibration</span>" not in page


def test_the_best_trajectory_comes_first(run_page: str) -> None:
    assert run_page.index("reward 1.00") < run_page.index("reward 0.00")


def test_a_run_without_trajectories_says_so(make_run: MakeRun) -> None:
    assert "No trajectories were kept" in write_page(make_run()).read_text(encoding="utf-8")


def test_a_lab_gets_one_page_for_all_arms(make_lab: Callable[..., Path], tmp_path: Path) -> None:
    results = make_lab({"grpo": 0.1, "calibadv": 0.3})
    page = write_page(results.parent, out=tmp_path / "elsewhere" / "lab.html").read_text(encoding="utf-8")
    assert "<th>grpo</th><th>calibadv</th>" in page
    assert "<td>0.320 → 0.640</td>" in page
    assert "<strong>calibadv ends above grpo &lt;b&gt;</strong>" in page
    assert "<td>0.610 to 0.670 (3 seeds)</td>" in page
    parsed(page)


def test_inlined_figures_have_ids_of_their_own() -> None:
    svg = (
        '<?xml version="1.0"?>\n<svg><metadata>x</metadata><g id="a" clip-path="url(#b)"/><use xlink:href="#a"/></svg>'
    )
    body = '<g id="f1-a" clip-path="url(#f1-b)"/><use xlink:href="#f1-a"/>'
    assert inline(svg, prefix="f1", label="F1").endswith(f'role="img" aria-label="F1">{body}</svg>')
