"""What ``calibadv ask`` and ``calibadv serve`` share: which model, which documents, and opening both."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.eval.target import ENGINES, as_toml, model_of, retriever_settings
from calibadv.cli.options import add_set_option, positive, read_run_config, require_packages
from calibadv.errors import ConfigError
from calibadv.lab.questions import make_questions, write_world

if TYPE_CHECKING:
    from calibadv.agent import Agent
    from calibadv.config import RunConfig

LAB_MODEL = "package:calibadv.lab/weights/base"
LAB_WORLD_SEED = 1001
LAB_ROLLOUT: dict[str, Any] = {"prompt": "question", "top_k": 2, "max_searches": 4, "max_turn_tokens": 80}


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Model, retriever and how they are used."""
    parser.add_argument(
        "--model",
        metavar="TARGET",
        help="the folder of a run, a model folder or hub id, or a .toml config (default: the lab's packaged model)",
    )
    parser.add_argument(
        "--retriever",
        metavar="URL|INDEX|CORPUS",
        help="a server, an index folder, or a corpus (default: as in the run; the lab's encyclopedia for its model)",
    )
    parser.add_argument("--engine", choices=ENGINES, help="what writes the turns (default: transformers)")
    parser.add_argument("--model-url", metavar="URL", help="address of the model's server (vllm-server, openai)")
    parser.add_argument("--top-k", type=positive, metavar="K", help="documents per search (rollout.top_k)")
    parser.add_argument("--max-searches", type=positive, metavar="N", help="searches per question")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default: 0)")
    add_set_option(parser)


def agent_config(arguments: argparse.Namespace, *, corpus: Path | None = None) -> RunConfig:
    """The settings that the options stand for; ``corpus`` is searched where neither they nor a run name anything."""
    from calibadv.config import RunConfig
    from calibadv.data.run_files import CONFIG

    overrides = [*_overrides(arguments), *arguments.overrides]
    target = arguments.model
    retrieval = {} if arguments.retriever is None else retriever_settings(arguments.retriever)
    if target is not None and (Path(target).suffix == ".toml" or (Path(target) / CONFIG).is_file()):
        overrides += [f"retrieval.{name}={as_toml(value)}" for name, value in retrieval.items()]
        return read_run_config(Path(target), overrides=overrides)
    given = {name: value for name, value in retrieval.items() if value != "none"}
    if target is not None and not given:
        raise ConfigError(f"--model {target} needs --retriever: a server's URL, an index folder or a corpus")
    sections: dict[str, Any] = {
        "model": {"path": target or LAB_MODEL},
        "retrieval": given or {"corpus": str(corpus)},
        "rollout": LAB_ROLLOUT if target is None else {},
        "training": {"output": "runs"},
    }
    return RunConfig.from_mapping(sections, overrides=overrides)


def is_lab(arguments: argparse.Namespace) -> bool:
    """Nothing else was named: the packaged model and its encyclopedia are meant."""
    return arguments.model is None and arguments.retriever is None


@contextmanager
def opened_agent(arguments: argparse.Namespace, *, max_conversations: int) -> Iterator[Agent]:
    """The agent, with everything it needs; closed at the end."""
    with ExitStack() as stack:
        corpus = None
        if is_lab(arguments):
            from calibadv.lab.world import LabWorld

            world_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="calibadv-world-")))
            write_world(LabWorld.make(LAB_WORLD_SEED), world_dir)
            corpus = world_dir / "corpus.jsonl"
        config = agent_config(arguments, corpus=corpus)
        model = config.model
        if arguments.model is not None:
            model = model_of(config, target=Path(arguments.model), checkpoint=None)
        if model.engine != "openai":
            require_packages("torch", "transformers", extra="train", what="the agent")
        from calibadv.agent import Agent
        from calibadv.models.open_policy import open_policy
        from calibadv.retrieval.open import open_retriever

        retriever = open_retriever(config.retrieval, top_k=config.rollout.top_k)
        opened = stack.enter_context(open_policy(model, threads=config.training.threads))
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


def lab_questions(count: int) -> list[str]:
    """Questions that the lab's encyclopedia answers, of different kinds."""
    from calibadv.lab.world import LabWorld

    questions = make_questions(LabWorld.make(LAB_WORLD_SEED), "test")
    return [question.text for question in questions[:: max(1, len(questions) // count)][:count]]


def _overrides(arguments: argparse.Namespace) -> Sequence[str]:
    options = {
        "model.engine": arguments.engine,
        "model.url": arguments.model_url,
        "rollout.top_k": arguments.top_k,
        "rollout.max_searches": arguments.max_searches,
        "rollout.temperature": arguments.temperature,
    }
    return [f"{key}={as_toml(value)}" for key, value in options.items() if value is not None]
