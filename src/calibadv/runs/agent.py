"""An agent that answers questions: which model, which documents, and opening both."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from calibadv.agent import Agent
from calibadv.agent.events import Event, Finished
from calibadv.config import RunConfig
from calibadv.errors import PolicyError
from calibadv.io.packages import require_packages
from calibadv.lab.questions import make_questions, write_world
from calibadv.lab.world import LabWorld
from calibadv.models.load import resolve_model
from calibadv.models.open_policy import open_policy
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.open import opened_retriever
from calibadv.runs.targets import config_of, retriever_settings

LAB_MODEL = "package:calibadv.lab/weights/base"
LAB_WORLD_SEED = 1001
LAB_ROLLOUT: dict[str, Any] = {"prompt": "question", "top_k": 2, "max_searches": 4, "max_turn_tokens": 80}


@contextmanager
def open_agent(config: RunConfig, *, retriever: Retriever | None = None, max_conversations: int = 1) -> Iterator[Agent]:
    """The agent that a config describes, with everything it needs; closed at the end.

    Args:
        config: The settings; `calibadv.runs.targets.config_of` makes them from a run or a model, `lab_config` from
            nothing at all.
        retriever: Searched instead of what [retrieval] names.
        max_conversations: Questions answered at once.

    Raises:
        ConfigError: A setting is wrong, the model is not there, or a package is missing.
        RetrieverUnavailable: The retriever could not be reached.
    """
    if config.model.engine != "openai":
        require_packages("torch", "transformers", extra="train", what="the agent")
        resolve_model(config.model)
    with ExitStack() as stack:
        searched = opened_retriever(config.retrieval, top_k=config.rollout.top_k, given=retriever)
        retriever = stack.enter_context(searched)
        opened = stack.enter_context(open_policy(config.model, threads=config.training.threads))
        yield stack.enter_context(
            Agent(
                policy=opened.policy,
                retriever=retriever,
                tokenizer=opened.tokenizer,
                config=config.rollout,
                seed=config.training.seed,
                max_conversations=max_conversations,
            )
        )


@contextmanager
def lab_config(*, overrides: Sequence[str] = (), retrieval: dict[str, Any] | None = None) -> Iterator[RunConfig]:
    """The lab's packaged model over the lab's encyclopedia, which lies in a temporary folder until the end.

    Args:
        overrides: ``section.key=value``, as ``--set`` takes them.
        retrieval: The [retrieval] section, where other documents are searched.
    """
    with tempfile.TemporaryDirectory(prefix="calibadv-world-") as folder:
        if retrieval is None:
            write_world(LabWorld.make(LAB_WORLD_SEED), Path(folder))
        sections = {
            "model": {"path": LAB_MODEL},
            "retrieval": retrieval or {"corpus": str(Path(folder) / "corpus.jsonl")},
            "rollout": LAB_ROLLOUT,
            "training": {"output": "runs"},
        }
        yield RunConfig.from_mapping(sections, overrides=overrides)


@contextmanager
def opened_agent(
    target: str | None,
    *,
    retriever: str | None = None,
    arm: str | None = None,
    overrides: Sequence[str] = (),
    max_conversations: int = 1,
) -> Iterator[Agent]:
    """The agent behind a target; closed at the end.

    Args:
        target: A config, a run, a lab or a model (`calibadv.runs.targets.config_of`). Not set: the lab's model.
        retriever: Servers, an index folder or a corpus instead of what the target says.
        arm: Which arm of a lab.
        overrides: ``section.key=value``, as ``--set`` takes them.
        max_conversations: Questions answered at once.
    """
    with ExitStack() as stack:
        if target is None:
            named = {} if retriever is None else retriever_settings(retriever)
            retrieval = {name: value for name, value in named.items() if value != "none"}
            config = stack.enter_context(lab_config(overrides=overrides, retrieval=retrieval or None))
        else:
            config = config_of(target, arm=arm, retriever=retriever, overrides=overrides)
        yield stack.enter_context(open_agent(config, max_conversations=max_conversations))


@contextmanager
def started_agent(target: str | None, **options: Any) -> Iterator[Agent]:
    """As `opened_agent`, but sooner: importing torch and transformers makes a million objects, all of which stay.

    Looking for garbage among them took a quarter of the start, so nobody looks: not while they are made (no collection)
    and not later (they are frozen until the agent is closed).
    """
    with ExitStack() as stack:
        gc.disable()
        stack.callback(gc.enable)
        agent = stack.enter_context(opened_agent(target, **options))
        gc.freeze()
        stack.callback(gc.unfreeze)
        gc.enable()
        yield agent


def ask(
    question: str,
    *,
    config: RunConfig | None = None,
    retriever: Retriever | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Finished:
    """Put one question to an agent and wait for its answer.

    Args:
        question: In plain words.
        config: Which model searches what (`calibadv.load_config`, `calibadv.runs.targets.config_of`). Not set: the
            lab's agent over the lab's encyclopedia.
        retriever: Searched instead of what [retrieval] names.
        on_event: Told of every turn and of the documents found, as they come.

    Returns:
        The end of the episode: ``answer`` (None without one), ``sources``, ``trajectory``, ``seconds``.

    Raises:
        ConfigError: A setting is wrong, or the question leaves no room in the context.
        RetrieverUnavailable: The retriever could not be reached.
        PolicyError: The model cannot generate.
    """
    with ExitStack() as stack:
        config = stack.enter_context(lab_config()) if config is None else config
        agent = stack.enter_context(open_agent(config, retriever=retriever))
        for event in agent.ask(question):
            if on_event is not None:
                on_event(event)
            if isinstance(event, Finished):
                return event
    raise PolicyError("the agent ended without an answer")  # the loop above ends with Finished or an error


def lab_questions(count: int) -> list[str]:
    """Questions that the lab's encyclopedia answers, of different kinds."""
    questions = make_questions(LabWorld.make(LAB_WORLD_SEED), "test")
    return [question.text for question in questions[:: max(1, len(questions) // count)][:count]]


def name_of(model: str | None) -> str:
    """What clients call the model behind a target; None is the lab's."""
    if model is None or model == LAB_MODEL:
        return "calibadv-lab"
    path = Path(model)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.exists() else model
