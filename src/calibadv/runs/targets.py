"""What a path or name means: a config, a run, an arm of a lab, or a model; and the settings that follow from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from calibadv.config import RunConfig
from calibadv.data.prepare import LocalSource, open_source
from calibadv.data.run_files import CONFIG, RESULTS, is_run
from calibadv.errors import ConfigError, DataError
from calibadv.io.files import read_json
from calibadv.io.packages import require_packages
from calibadv.training.checkpoints import newest_model

logger = logging.getLogger(__name__)

DEFAULT_ARM = "calibadv"


def is_config(target: str | Path) -> bool:
    """Whether a target names settings (a .toml file, a run, a lab) and not a model."""
    path = Path(target)
    return path.suffix == ".toml" or (path.is_dir() and (is_run(path) or bool(lab_arms(path))))


def lab_arms(folder: Path) -> dict[str, list[Path]]:
    """The arms of a lab with the folders of their runs, one a seed; empty when this is no lab."""
    arms: dict[str, list[Path]] = {}
    for entry in _lab_results(folder).get("arms", ()):
        run = folder / entry["run_dir"]
        if is_run(run):  # an interrupted lab has not started all of them
            arms.setdefault(entry["name"], []).append(run)
    return arms


def _lab_results(folder: Path) -> dict[str, Any]:
    """What a lab has written down; empty for the results of an evaluation, which have the same name."""
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    return results if isinstance(results.get("arms"), list) else {}


def run_of(target: Path, *, arm: str | None = None) -> Path:
    """The folder of a run: the target itself, or that of one arm if the target is a lab.

    Args:
        target: A path; one that is no lab comes back unchanged.
        arm: Name of an arm, or of a run inside the lab (``calibadv-seed1``). Not set: the lab's default, CalibAdv.

    Raises:
        ConfigError: There is no such arm, or an arm was named of what is no lab.
    """
    arms = {} if is_run(target) or not target.is_dir() else lab_arms(target)
    if not arms:
        if arm is not None:
            raise ConfigError(f"--arm {arm}: {target} is not the folder of a lab; leave the option out")
        return target
    known = ", ".join(arms)
    by_folder = {run.name: run for run in chain.from_iterable(arms.values())}
    wanted = arm or str(_lab_results(target).get("default_arm", DEFAULT_ARM))
    if wanted in arms:
        run = arms[wanted][0]
    elif wanted in by_folder:
        run = by_folder[wanted]
    else:
        raise ConfigError(f"{target} is a lab without an arm {wanted}; choose with --arm: {known}")
    if arm is None and len(by_folder) > 1:
        logger.info("%s is a lab; this is its run %s (--arm chooses: %s)", target, run.name, known)
    return run


def load_config(path: Path | str, *, overrides: Sequence[str] = (), arm: str | None = None) -> RunConfig:
    """Read the configuration of a run.

    Args:
        path: A TOML file, the folder of a run, or that of a lab.
        overrides: ``section.key=value``, as ``--set`` takes them.
        arm: Which arm of a lab; not set: `DEFAULT_ARM`.

    Returns:
        All sections, checked.

    Raises:
        ConfigError: The file, a setting or an override is wrong; the message names it.
    """
    target = run_of(Path(path), arm=arm)
    if target.is_dir():
        if not is_run(target):
            raise ConfigError(f"{target} is not a run's folder: it has no {CONFIG}; name a .toml config or a run")
        target = target / CONFIG
    return RunConfig.read(target, overrides=overrides)


def config_to_run(
    target: Path | None, *, resume: Path | None = None, overrides: Sequence[str] = (), output: str = "training.output"
) -> RunConfig:
    """The config of a run to come or to be resumed.

    Args:
        target: A TOML file or the folder of a run. Not set: the one to resume.
        resume: Folder of the run to resume, which may have moved since it was written.
        overrides: ``section.key=value``, as ``--set`` takes them.
        output: The setting that names the folder of the run.

    Raises:
        ConfigError: Nothing is named, or it is not there.
    """
    overrides = list(overrides)
    if resume is not None and target is None:
        if not resume.exists():
            raise ConfigError(f"--resume {resume}: no such folder; name the folder of a run, such as runs/lab-run")
        if resume.is_dir():
            overrides.insert(0, f"{output}={resume.absolute()}")
        target = resume
    elif resume is not None:
        overrides.append(f"{output}={resume}")
    if target is None:
        raise ConfigError("name a config, such as configs/lab.toml, or a run with --resume RUN")
    return load_config(target, overrides=overrides)


def config_of(
    target: str | Path,
    *,
    arm: str | None = None,
    checkpoint: str | None = None,
    retriever: str | None = None,
    overrides: Sequence[str] = (),
    sections: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The settings with which the model behind a target is used.

    Args:
        target: A .toml config, the folder of a run or of a lab, or a model (folder, .gguf file, hub id).
        arm: Which arm of a lab (`run_of`).
        checkpoint: A model folder, a checkpoint of the run by name, or "base" for the model it started from. Not set:
            the model that a run trained, or the one of the config.
        retriever: Servers, an index folder or a corpus instead of what the target says (`retriever_settings`).
        overrides: ``section.key=value``, as ``--set`` takes them.
        sections: Settings of a target that is a model and brings none.

    Raises:
        ConfigError: The target is nothing of these, or a model without a retriever.
    """
    retrieval = {} if retriever is None else retriever_settings(retriever)
    path = Path(target)
    if is_config(target):
        named = [f"retrieval.{name}={as_toml(value)}" for name, value in retrieval.items()]
        path = run_of(path, arm=arm)
        config = load_config(path, overrides=[*named, *overrides])
        return with_checkpoint(config, run=path if is_run(path) else None, checkpoint=checkpoint)
    if arm is not None:
        raise ConfigError(f"--arm {arm}: {target} is not the folder of a lab; leave the option out")
    check_model(target)
    if retriever is None:
        raise ConfigError(f"{target} is taken for a model, which needs --retriever; or name a config or a run")
    given = {name: value for name, value in retrieval.items() if value != "none"}
    bare = {"model": {"path": str(target)}, "retrieval": given, "training": {"output": "runs"}}
    config = RunConfig.from_mapping(bare | dict(sections or {}), overrides=overrides)
    return with_checkpoint(config, run=None, checkpoint=checkpoint)


def check_model(target: str | Path) -> None:
    """Refuse a folder that holds no model."""
    path = Path(target)
    if path.is_dir() and not (any(path.glob("*config.json")) or any(path.glob("*.gguf"))):
        raise ConfigError(
            f"{target} is neither the folder of a run ({CONFIG}) nor that of a model (config.json, .gguf); name one of "
            "them, or a .toml config"
        )


def with_checkpoint(config: RunConfig, *, run: Path | None, checkpoint: str | None) -> RunConfig:
    """The config with the model that is meant: its own, the one that the run trained, or the checkpoint asked for."""
    if checkpoint == "base" or (checkpoint is None and run is None):
        return config
    if checkpoint is not None:
        candidates = [Path(checkpoint)] if run is None else [run / checkpoint, Path(checkpoint)]
        folder = next((path for path in candidates if path.exists()), None)
        if folder is None:
            where = "here" if run is None else f"in {run} nor here"
            raise ConfigError(f"--checkpoint {checkpoint}: no such folder, neither {where}")
    else:
        assert run is not None
        folder = newest_model(run)
        if folder is None:
            raise ConfigError(f"{run} holds no trained model yet; --checkpoint base evaluates what it started from")
    return replace(config, model=replace(config.model, path=folder.absolute(), gguf_file=None))


def retriever_settings(value: str) -> dict[str, Any]:
    """The settings of [retrieval] that servers, an index folder or a corpus stand for; "none" takes the others out."""
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


def question_files(items: Sequence[str], *, split: str, source: str = "hub") -> list[Path]:
    """The files behind names: question files, folders of them, or data sets of ``source`` (several with commas)."""
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


def as_toml(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return str(value) if value == "none" else json.dumps(value)
