"""`evaluate`: play the questions of a config with its model, grade the answers, keep every finished rollout."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calibadv.config import RunConfig
from calibadv.data.config import draw, load_split
from calibadv.data.run_files import is_run
from calibadv.data.trajectory_files import read_trajectories
from calibadv.dialogue.prompt import prompt_template
from calibadv.errors import ConfigError, DataError
from calibadv.evaluation.evaluate import EvalResult, rollout_config_of
from calibadv.evaluation.evaluate import evaluate as play_questions
from calibadv.evaluation.folder import (
    FINISHED,
    MANIFEST,
    QUESTIONS,
    TRAJECTORIES,
    claim_folder,
    questions_sha256,
    read_results,
    write_evaluation,
)
from calibadv.evaluation.grade import Grade
from calibadv.evaluation.journal import Journal
from calibadv.io.files import read_json
from calibadv.io.packages import require_packages
from calibadv.io.provenance import file_sha256, text_sha256, versions
from calibadv.models.engine import Engine
from calibadv.models.load import fingerprint, resolve_model
from calibadv.models.open_policy import open_policy
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.open import opened_retriever
from calibadv.rewards.reward import Reward, open_reward
from calibadv.rollout.policy import Policy
from calibadv.rollout.tokenizer import with_template_kwargs
from calibadv.rollout.tokenizer_checks import rendering_problems
from calibadv.runs.progress import Tell, about
from calibadv.trajectory import Question

if TYPE_CHECKING:
    from calibadv.evaluation.judge import Judge

logger = logging.getLogger(__name__)

Split = Literal["test", "train"]
NOT_METRICS = frozenset({"dataset", "id", "sample", "question", "golden_answers", "answer", "queries", "stop_reason"})
"""What a line of questions.jsonl holds besides the metrics of a `Grade`."""


def evaluate(
    config: RunConfig,
    *,
    out: Path | None = None,
    split: Split = "test",
    datasets: Sequence[str] = (),
    reward: Reward | None = None,
    retriever: Retriever | None = None,
    policy: Policy | Engine | None = None,
    judge: Judge | None = None,
    progress: Tell | None = None,
) -> EvalResult:
    """Evaluate ``config.model`` on the questions of ``data.test``, as [rollout] and [evaluation] say.

    What is wrong with settings, questions or the model's path is said before a server is waited for.

    Args:
        config: The settings; `calibadv.runs.targets.config_of` makes them from a run, a lab or a model.
        out: Folder for everything: rollouts as they finish, and at the end the results. An unfinished evaluation there
            is continued, a complete one is read and not played again. Not set: nothing is written.
        split: Which questions.
        datasets: Only these data sets of the files. Empty: all.
        reward: ``(trajectory) -> float`` in the place of ``reward.function``.
        retriever: Searched instead of what [retrieval] names.
        policy: What writes the turns, in the place of ``model.engine`` (`calibadv.models.engine.Engine`).
        judge: A language model that compares answers with the golden ones.
        progress: Told how far it is.

    Returns:
        Trajectories, grades, and the means with their intervals.

    Raises:
        ConfigError: A setting or the folder is wrong, or ``out`` holds an evaluation with other settings.
        RetrieverUnavailable: The retriever could not be reached any more; what was finished is kept in ``out``.
    """
    if out is not None:
        check_folder(out)
    questions = questions_of(config, split=split, datasets=datasets)
    if config.model.engine != "openai":
        require_packages("torch", "transformers", extra="train", what="evaluation")
        resolve_model(config.model)
    reward = open_reward(reward or config.reward.function, score=config.reward.score)
    with (
        opened_retriever(config.retrieval, top_k=config.rollout.top_k, given=retriever) as searched,
        open_policy(config.model, threads=config.training.threads, engine=policy) as opened,
    ):
        for problem in rendering_problems(opened.tokenizer, rollout=config.rollout):
            logger.warning("%s", problem)
        play = partial(
            play_questions,
            questions,
            policy=opened.policy,
            retriever=searched,
            tokenizer=opened.tokenizer,
            config=rollout_config_of(config.evaluation, config.rollout),
            samples=config.evaluation.samples,
            seed=config.training.seed,
            score=config.reward.score,
            reward=reward,
            progress=about(progress, "rollouts"),
        )
        if out is None:
            return _judged(play(), config, judge=judge, progress=progress)
        manifest = manifest_of(
            config, split=split, questions=questions, index=index_of(searched), tokenizer=opened.tokenizer
        )
        if judge is not None:
            manifest["judge"] = judge.identity()
        if claim_folder(out, manifest=manifest):
            logger.info("%s was complete already; nothing was played", out)
            return read_result(out)
        with Journal(out / FINISHED) as journal:
            if journal.finished:
                logger.info("%d rollouts were finished before and are not played again", len(journal.finished))
            result = play(journal=journal)
    result = _judged(result, config, judge=judge, progress=progress)
    write_evaluation(result, out, manifest=manifest)
    return result


def questions_of(config: RunConfig, *, split: Split, datasets: Sequence[str] = ()) -> list[Question]:
    """The questions that are played: those of the files, of some data sets, at most ``evaluation.limit``."""
    questions = load_split(config.data, split)
    if datasets:
        known = list(dict.fromkeys(question.dataset for question in questions))
        absent = [name for name in datasets if name not in known]
        if absent:
            raise DataError(f"--datasets {','.join(absent)}: not in the files, which hold {', '.join(known)}")
        questions = [question for question in questions if question.dataset in datasets]
    return draw(questions, limit=config.evaluation.limit, seed=config.data.seed)


def manifest_of(
    config: RunConfig, *, split: Split, questions: Sequence[Question], index: dict[str, Any], tokenizer: Any
) -> dict[str, Any]:
    """What the figures depend on, with hashes."""
    sections = config.effective()
    played = rollout_config_of(config.evaluation, config.rollout)
    templated = with_template_kwargs(tokenizer, played.chat_template_kwargs)
    rendered = templated.chat([{"role": "user", "content": "?"}]) or ""
    return {
        "model": identity(config),
        "index": index,
        "prompt": {
            "name": played.prompt,
            "sha256": text_sha256(prompt_template(played.prompt).text),
            "chat_template_sha256": text_sha256(rendered),
        },
        "questions": {
            "number": len(questions),
            "sha256": questions_sha256(questions),
            "files": {str(path): described(path) for path in getattr(config.data, split)},
        },
        "sampling": {
            "samples": config.evaluation.samples,
            "seed": config.training.seed,
            "temperature": played.temperature,
            "top_p": played.top_p,
        },
        "rollout": {**sections["rollout"], "temperature": played.temperature},
        "score": config.reward.score,
        "config": sections,
        "versions": versions(),
    }


def identity(config: RunConfig) -> dict[str, Any]:
    """What identifies the model: digest or commit of its files; at a server its name there and the address."""
    model = config.model
    if model.engine == "openai":
        return {"name": model.served_name or str(model.path), "url": model.url, "engine": model.engine}
    return {**fingerprint(model), "engine": model.engine, "dtype": model.dtype, "url": model.url}


def described(path: Path) -> dict[str, Any]:
    """A question file: its digest, and where the questions come from when their preparation says so."""
    report = path.with_name(f"{path.stem}.report.json")
    source = read_json(report).get("source") if path.suffix == ".parquet" and report.is_file() else None
    return {"sha256": file_sha256(path)} | ({} if source is None else {"source": source})


def index_of(retriever: Any) -> dict[str, Any]:
    """What identifies a retriever's index."""
    manifest = {name: value for name, value in retriever.manifest().items() if name != "stop_words"}
    return manifest | {"version": str(getattr(retriever, "version", "") or "")}


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not an evaluation's, before anything is loaded."""
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise ConfigError(f"the output folder {folder} is not empty; name another one with --out")


def free_folder(target: str | Path, *, split: Split = "test") -> Path:
    """The first unused ``eval-SPLIT-N`` inside a run's folder, or ``runs/NAME-eval-SPLIT-N`` for anything else."""
    path = Path(target)
    if is_run(path):
        stem = path / f"eval-{split}"
    else:
        name = path.stem if path.suffix in (".toml", ".gguf") else path.name
        stem = Path("runs") / f"{name.removeprefix('package:') or 'model'}-eval-{split}"
    number = 1
    while (folder := stem.with_name(f"{stem.name}-{number}")).exists():
        number += 1
    return folder


def read_result(folder: Path) -> EvalResult:
    """A complete evaluation as `evaluate` returned it."""
    lines = [json.loads(line) for line in (folder / QUESTIONS).read_text(encoding="utf-8").splitlines()]
    grades = [
        Grade(
            dataset=line["dataset"],
            question_id=line["id"],
            sample=line["sample"],
            values={name: value for name, value in line.items() if name not in NOT_METRICS},
        )
        for line in lines
    ]
    return EvalResult(
        trajectories=tuple(record.trajectory for record in read_trajectories(folder / TRAJECTORIES)),
        grades=tuple(grades),
        summaries=tuple(read_results(folder)),
    )


def _judged(result: EvalResult, config: RunConfig, *, judge: Judge | None, progress: Tell | None) -> EvalResult:
    if judge is None:
        return result
    return judge.judge(result, seed=config.training.seed, progress=about(progress, "judged"))
