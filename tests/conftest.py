"""Settings for every test: one thread a process, no window, no network, no clock in property tests.

And what tests of several folders need: runs of the lab's policy on a small world, the folder of real passages,
a browser.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from calibadv.lab.questions import write_world
from calibadv.retrieval.corpus.read import read_corpus

# Before anything imports torch or matplotlib. `scripts/test` sets the same; this is for a bare `pytest`.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine must not fail a property; in CI the same examples come every time.
settings.register_profile("calibadv", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("calibadv")

Sections = dict[str, dict[str, Any]]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
MISSING = "needs the Python package playwright and Chromium (apt-get install chromium)"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def lab_run() -> Callable[..., Sections]:
    """``lab_run(folder, training={"steps": 4})`` writes a small world and returns the sections of a run over it.

    The policy is the lab's. What is given is merged into the sections.
    """
    from calibadv.lab import LabWorld, load_policy

    def make(folder: Path, **given: dict[str, Any]) -> Sections:
        write_world(LabWorld.make(3, size=60), folder)
        sections: Sections = {
            "model": {"path": str(load_policy()), "device": "cpu"},
            "data": {"train": [str(folder / "questions.train.jsonl")]},
            "retrieval": {"corpus": str(folder / "corpus.jsonl")},
            "rollout": {"prompt": "question", "top_k": 2, "max_searches": 2, "max_turn_tokens": 40},
            "training": {"threads": 1},
        }
        return {name: sections.get(name, {}) | given.get(name, {}) for name in sections | given}

    return make


@pytest.fixture(scope="session")
def write_toml() -> Callable[[Path, Sections], Path]:
    """``write_toml(path, sections)`` writes a config file and returns its path."""

    def write(path: Path, sections: Sections) -> Path:
        lines = []
        for name, values in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def miniwiki() -> Path:
    """The folder of real passages and questions that CALIBADV_MINIWIKI names, or the one beside the repository."""
    named = os.environ.get("CALIBADV_MINIWIKI")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "miniwiki"
    if not (folder / "corpus.jsonl.gz").is_file():
        pytest.skip("CALIBADV_MINIWIKI names no folder with corpus.jsonl.gz")
    return folder


@pytest.fixture(scope="session")
def miniwiki_corpus(miniwiki: Path) -> Any:
    """Its passages."""

    return read_corpus(miniwiki / "corpus.jsonl.gz")


@pytest.fixture(scope="session")
def miniwiki_questions(miniwiki: Path) -> Callable[..., list[Any]]:
    """``miniwiki_questions("nq", "musique")``: all questions of these data sets."""
    from calibadv.data.questions import load_questions

    def read(*names: str) -> list[Any]:
        paths = [path for name in names for path in sorted(miniwiki.glob(f"{name}.*jsonl"))]
        return [question for path in paths for question in load_questions(path)]

    return read


@pytest.fixture(scope="module")  # playwright runs an event loop, in which no other can be started
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright."""
    if BROWSER is None or importlib.util.find_spec("playwright") is None:
        # Continuous integration sets this: there the test may not be left out.
        assert not os.environ.get("CALIBADV_REQUIRE_BROWSER"), MISSING
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()
