"""What ``calibadv eval`` is asked to evaluate: model, questions, retriever and settings from a target and options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import add_set_option, names, positive, read_run_config, require_packages
from calibadv.errors import ConfigError, DataError

if TYPE_CHECKING:
    from calibadv.config import RunConfig
    from calibadv.models.load import ModelConfig
    from calibadv.rollout import RolloutConfig
    from calibadv.trajectory import Question

ENGINES = ("transformers", "vllm", "vllm-server", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that an evaluation needs, not yet loaded."""

    config: RunConfig
    model: ModelConfig
    rollout: RolloutConfig
    files: tuple[Path, ...]
    questions: list[Question]

    def manifest(self, *, index: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        """What the figures depend on, with hashes."""
        from calibadv.dialogue.prompt import PROMPTS
        from calibadv.evaluation.folder import questions_sha256
        from calibadv.io.provenance import text_sha256, versions

        config, name = self.config.effective(), self.rollout.prompt
        rendered = tokenizer.chat([{"role": "user", "content": "?"}]) or ""
        return {
            "model": identity(self.model),
            "index": index,
            "prompt": {
                "name": name,
                "sha256": text_sha256(PROMPTS[name].text),
                "chat_template_sha256": text_sha256(rendered),
            },
            "questions": {
                "number": len(self.questions),
                "sha256": questions_sha256(self.questions),
                "files": {str(path): described(path) for path in self.files},
            },
            "sampling": {
                "samples": self.config.evaluation.samples,
                "seed": self.config.training.seed,
                "temperature": self.rollout.temperature,
                "top_p": self.rollout.top_p,
            },
            "rollout": {**config["rollout"], "temperature": self.rollout.temperature},
            "score": self.config.reward.score,
            "config": config | {"model": {**config["model"], "path": str(self.model.path)}},
            "versions": versions(),
        }


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """The target, and what is different from what it says."""
    parser.add_argument("target", metavar="TARGET", help="a .toml config, the folder of a run, or a model")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help='a model folder, a checkpoint of the run by name, or "base" (default: the model of the config or run)',
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="DIR|NAMES|FILES",
        help="question files, folders of them, or names of data sets in --source (commas; repeatable)",
    )
    parser.add_argument(
        "--source", default="hub", metavar="hub|FOLDER", help="where names are looked up (default: hub)"
    )
    parser.add_argument("--datasets", type=names, metavar="NAMES", help="only these data sets of the files")
    parser.add_argument(
        "--retriever", metavar="URL|INDEX|CORPUS", help="servers (commas), an index folder, or a corpus"
    )
    parser.add_argument("--engine", choices=ENGINES, help="what writes the turns (default: transformers)")
    parser.add_argument("--model-url", metavar="URL", help="address of the model's server (vllm-server, openai)")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which questions (default: test)")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N questions, drawn with data.seed")
    parser.add_argument("--samples", type=positive, metavar="K", help="rollouts per question (pass@k when > 1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    parser.add_argument("--seed", type=int, metavar="S", help="of the sampling (training.seed)")
    parser.add_argument("--top-k", type=positive, metavar="K", help="documents per search (rollout.top_k)")
    add_set_option(parser)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Read the settings and the questions."""
    from calibadv.data.config import draw, load_split
    from calibadv.evaluation import rollout_config_of

    config = config_of(arguments)
    model = model_of(config, target=Path(arguments.target), checkpoint=arguments.checkpoint)
    questions = load_split(config.data, arguments.split)
    if arguments.datasets:
        known = list(dict.fromkeys(question.dataset for question in questions))
        absent = [name for name in arguments.datasets if name not in known]
        if absent:
            raise DataError(f"--datasets {','.join(absent)}: not in the files, which hold {', '.join(known)}")
        questions = [question for question in questions if question.dataset in arguments.datasets]
    return Plan(
        config=config,
        model=model,
        rollout=rollout_config_of(config.evaluation, config.rollout),
        files=getattr(config.data, arguments.split),
        questions=draw(questions, limit=config.evaluation.limit, seed=config.data.seed),
    )


def config_of(arguments: argparse.Namespace) -> RunConfig:
    """The config of the target with the command's own options put in as overrides."""
    from calibadv.config import RunConfig
    from calibadv.data.run_files import CONFIG

    target = Path(arguments.target)
    overrides = [*arguments.overrides, *_option_overrides(arguments)]
    if target.suffix == ".toml" or (target.is_dir() and (target / CONFIG).is_file()):
        if arguments.retriever is not None:
            settings = retriever_settings(arguments.retriever)
            overrides += [f"retrieval.{name}={as_toml(value)}" for name, value in settings.items()]
        return read_run_config(target, overrides=overrides)
    if target.is_dir() and not (any(target.glob("*config.json")) or any(target.glob("*.gguf"))):
        raise ConfigError(
            f"{target} is neither the folder of a run ({CONFIG}) nor that of a model (config.json, .gguf); name one of "
            "them, or a .toml config"
        )
    missing = [name for name in ("data", "retriever") if getattr(arguments, name) is None]
    if missing:
        raise ConfigError(
            f"{arguments.target} is taken for a model, which needs --{' and --'.join(missing)}; or name a .toml config "
            "or the folder of a run"
        )
    retrieval = {name: value for name, value in retriever_settings(arguments.retriever).items() if value != "none"}
    if arguments.temperature is None and (arguments.samples or 1) == 1:
        overrides.append("evaluation.temperature=0")
    return RunConfig.from_mapping(
        {"model": {"path": arguments.target}, "retrieval": retrieval, "training": {"output": "runs"}},
        overrides=overrides,
    )


def model_of(config: RunConfig, *, target: Path, checkpoint: str | None) -> ModelConfig:
    """Which model is evaluated: the config's, the one a run trained, or the checkpoint asked for."""
    is_run = target.is_dir() and (target / "config.toml").is_file()
    if checkpoint == "base" or (checkpoint is None and not is_run):
        return config.model
    if checkpoint is not None:
        candidates = [target / checkpoint, Path(checkpoint)] if is_run else [Path(checkpoint)]
        folder = next((path for path in candidates if path.exists()), None)
        if folder is None:
            raise ConfigError(f"--checkpoint {checkpoint}: no such folder, neither in {target} nor here")
    else:
        numbered = (path for path in target.glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdecimal())
        saved = sorted(numbered, key=lambda path: int(path.name.rsplit("-", 1)[1]))
        folder = target / "model" if (target / "model").is_dir() else (saved[-1] if saved else None)
        if folder is None:
            raise ConfigError(f"{target} holds no trained model yet; --checkpoint base evaluates what it started from")
    return replace(config.model, path=folder.absolute(), gguf_file=None)


def question_files(items: Sequence[str], *, split: str, source: str) -> list[Path]:
    """The files behind ``--data``."""
    from calibadv.data.prepare import LocalSource, open_source

    files: list[Path] = []
    opened = None
    for item in chain.from_iterable([given] if Path(given).exists() else given.split(",") for given in items):
        path = Path(item)
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            files += LocalSource(path).all_files(split)
        elif "/" in item or path.suffix:
            raise DataError(f"--data {item}: no such file or folder")
        else:
            if source == "hub":
                require_packages("huggingface_hub", extra="retrieval", what="reading questions from the hub")
            opened = opened or open_source(source)
            try:
                files.append(opened.find(item, split).path)
            except DataError as error:
                raise DataError(
                    f"--data {item} is no file or folder, so it is taken for a data set: {error}"
                ) from error
    return files


def identity(model: ModelConfig) -> dict[str, Any]:
    """What identifies the model: digest or commit of its files; at a server its name there and the address."""
    from calibadv.models.load import fingerprint

    if model.engine == "openai":
        return {"name": model.served_name or str(model.path), "url": model.url, "engine": model.engine}
    return {**fingerprint(model), "engine": model.engine, "dtype": model.dtype, "url": model.url}


def described(path: Path) -> dict[str, Any]:
    """A question file: its digest, and where the questions come from when their preparation says so."""
    from calibadv.io.files import read_json
    from calibadv.io.provenance import file_sha256

    report = path.with_name(f"{path.stem}.report.json")
    source = read_json(report).get("source") if path.suffix == ".parquet" and report.is_file() else None
    return {"sha256": file_sha256(path)} | ({} if source is None else {"source": source})


def check_packages(plan: Plan) -> None:
    """Say which pip command is missing, before anything is loaded."""
    if plan.model.engine != "openai":
        require_packages("torch", "transformers", extra="train", what="evaluation")


def _option_overrides(arguments: argparse.Namespace) -> list[str]:
    overrides = []
    for option, key in (
        ("limit", "evaluation.limit"),
        ("samples", "evaluation.samples"),
        ("temperature", "evaluation.temperature"),
        ("seed", "training.seed"),
        ("top_k", "rollout.top_k"),
        ("engine", "model.engine"),
        ("model_url", "model.url"),
    ):
        if getattr(arguments, option) is not None:
            overrides.append(f"{key}={as_toml(getattr(arguments, option))}")
    if arguments.data is not None:
        files = question_files(arguments.data, split=arguments.split, source=arguments.source)
        overrides.append(f"data.{arguments.split}={json.dumps([str(path.absolute()) for path in files])}")
    return overrides


def retriever_settings(value: str) -> dict[str, Any]:
    """The settings of [retrieval] that ``--retriever`` stands for; "none" takes the others out."""
    kinds: dict[str, Any] = {"url": "none", "index": "none", "corpus": "none", "index_dir": "none"}
    path = Path(value)
    if value.startswith(("http://", "https://")):
        servers = [part.strip() for part in value.split(",")]
        return kinds | {"url": servers if len(servers) > 1 else servers[0]}
    if (path / "manifest.json").is_file():
        return kinds | {"index": str(path.absolute())}
    if (path / "corpus.json").is_file() or path.is_file():
        return kinds | {"corpus": str(path.absolute())}
    if path.is_dir():
        raise ConfigError(
            f"--retriever {value}: the folder holds neither an index (manifest.json) nor a corpus (corpus.json); build "
            "one with calibadv index build"
        )
    raise ConfigError(f"--retriever {value}: no such file or folder; or give an address such as http://127.0.0.1:8000")


def as_toml(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return str(value) if value == "none" else json.dumps(value)
