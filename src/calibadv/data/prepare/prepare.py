"""`prepare`: read, check, de-duplicate, draw, mix, write, and report what was done."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from calibadv.config_class import config_class
from calibadv.data.config import draw
from calibadv.data.prepare.datasets import DATASETS, SPLITS, check_names, published_count
from calibadv.data.prepare.parquet import write_rows
from calibadv.data.prepare.selection import Known, Removed, repeated, shares, without_duplicates
from calibadv.data.prepare.sources import WHOLE, Source
from calibadv.data.questions import load_questions
from calibadv.dialogue.prompt import PROMPTS
from calibadv.errors import ConfigError, DataError
from calibadv.io.files import write_json
from calibadv.io.provenance import file_sha256
from calibadv.io.terminal import text_table
from calibadv.trajectory import Question

logger = logging.getLogger(__name__)
_EXAMPLES = 20


@config_class()
class PrepareConfig:
    """What to make of the source's files."""

    datasets: tuple[str, ...]
    splits: tuple[str, ...]
    """"train", "dev", "test". For data sets without a published test split, "test" reads their dev split."""
    limit: int | None = None
    """At most so many questions of each data set; with ``mix``, of the mixture, and evaluation splits stay whole."""
    seed: int = 0
    """Seeds draws and the order of a training split."""
    mix: dict[str, float] | None = None
    """Weight of each data set in the training split; None: every data set whole (or up to ``limit``)."""
    against: tuple[str, ...] | None = None
    """Data sets whose test questions a training split must not hold; None: those of the seven, and of ``datasets``,
    that the source has. Evaluation splits made in the same call always count too."""
    prompt: str = "search"
    """Wording of the ``prompt`` column (`calibadv.dialogue.prompt.PROMPTS`); this package ignores the column."""
    prefix: str = ""
    """Put before data set names in ``data_source``; verl's own scorer expects ``searchR1_``."""
    keep_metadata: bool = True
    allow_count_mismatch: bool = False
    """Accept row counts that are not the published ones. From a local folder they only cause a warning."""
    skip_bad: bool = False
    """Leave rows out that cannot be used, instead of refusing the file."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_names(self.datasets)
        unknown = [split for split in self.splits if split not in SPLITS]
        if unknown or not self.splits or len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"--split must name some of {', '.join(SPLITS)} once each, got {','.join(self.splits)!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit must be >= 1, got {self.limit}; leave it out for all questions")
        if self.prompt not in PROMPTS:
            raise ConfigError(f"--prompt must be one of {', '.join(PROMPTS)}, got {self.prompt!r}")


@dataclass(slots=True, kw_only=True)
class DatasetReport:
    """What became of one data set in one split."""

    name: str
    file: str
    sha256: str
    split_read: str
    """The split that was read; "whole" for a file that is not split."""
    rows: int
    published: int | None
    """Rows of this split as published; None when unknown."""
    unusable: int = 0
    """Rows that were left out because they cannot be used."""
    bad: list[str] = field(default_factory=list)
    """What is wrong with the first of them."""
    removed: dict[str, int] = field(default_factory=dict)
    """Reason -> number of questions removed as duplicates."""
    kept: int = 0


@dataclass(slots=True, kw_only=True)
class SplitReport:
    """What became of a split; it lies beside the parquet file as ``SPLIT.report.json``."""

    split: str
    path: str
    rows: int
    source: dict[str, Any]
    seed: int
    limit: int | None
    mix: dict[str, float] | None
    compared_with: list[str]
    """Evaluation questions that training questions were compared with, as ``data set (number)``."""
    datasets: list[DatasetReport]
    examples: list[Removed]
    """Some of the questions that were removed."""
    repeated: int = 0
    """Questions of an evaluation split that have the text of another one; they are kept, as published."""
    warnings: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """A few lines for a terminal."""
        header = ["data set", "split read", "rows", "published", "unusable", "as in a test", "repeated", "kept"]
        rows = []
        for part in self.datasets:
            in_test = sum(number for reason, number in part.removed.items() if "test" in reason)
            published = "?" if part.published is None else f"{part.published:,}"
            counts = [f"{part.unusable:,}", str(in_test), str(part.removed.get("repeated", 0)), f"{part.kept:,}"]
            rows.append([part.name, part.split_read, f"{part.rows:,}", published, *counts])
        lines = [f"{self.path}: {self.rows:,} questions", text_table(header, rows)]
        if self.compared_with:
            lines.append(f"compared with the tests of {', '.join(self.compared_with)}")
        lines += [
            f"  left out: {one.dataset}/{one.id} ({one.reason}: {one.other}) {one.question[:80]!r}"
            for one in self.examples[:3]
        ]
        if self.repeated:
            lines.append(f"{self.repeated} questions repeat the words of another one; a test is kept as published")
        return "\n".join(lines)


def prepare(source: Source, *, out: Path, options: PrepareConfig) -> list[SplitReport]:
    """Write ``OUT/SPLIT.parquet`` and its report for every split, once all of them could be made."""
    splits = sorted(options.splits, key=lambda split: split == "train")  # training is compared with the others
    _check_out(out, splits, overwrite=options.overwrite)
    _check_source(source, splits, datasets=options.datasets)
    known = Known()
    compared: dict[Path, str] = {}
    made = []
    for split in splits:
        if split == "train":
            _know_tests(source, options, known=known, compared=compared)
        sets, parts, files = _read(source, split, options)
        if split == "train":
            parts, examples = _deduplicate(parts, sets, known=known)
        else:
            examples = []
            for name, questions in parts.items():
                known.add(questions)
                compared[files[name]] = f"{name} ({len(questions):,})"
        report = SplitReport(
            split=split,
            path=str(out / f"{split}.parquet"),
            rows=0,
            source=source.identity(),
            seed=options.seed,
            limit=options.limit,
            mix=options.mix,
            compared_with=list(compared.values()) if split == "train" else [],
            datasets=sets,
            examples=examples[:_EXAMPLES],
        )
        report.warnings = _count_warnings(sets, published=source.is_published, allow=options.allow_count_mismatch)
        questions = _selected(parts, sets, split=split, options=options)
        if not questions:
            raise DataError(f"no {split} question is left: every one was a duplicate or could not be used")
        made.append((questions, report))
    for questions, report in made:
        _write(questions, report, out=out, options=options)
    return [report for _, report in made]


def _check_out(out: Path, splits: Sequence[str], *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    there = [split for split in splits if (out / f"{split}.parquet").exists()]
    if there and not overwrite:
        raise ConfigError(f"{out / there[0]}.parquet exists already; name another folder with --out, or --overwrite it")


def _check_source(source: Source, splits: Sequence[str], *, datasets: Sequence[str]) -> None:
    """Refuse before anything large is read; a data set need not have every split."""
    for split in splits:
        lacking = [name for name in datasets if not source.has(name, split)]
        if not lacking:
            continue
        try:
            source.find(lacking[0], split)
        except DataError as error:
            apart = len(lacking) < len(datasets) and len(splits) > 1
            remedy = f". Prepare {split} in a command of its own, without {', '.join(lacking)}" if apart else ""
            raise DataError(f"{error}{remedy}") from error


def _know_tests(source: Source, options: PrepareConfig, *, known: Known, compared: dict[Path, str]) -> None:
    """Read the test questions that training must not hold and that were not read yet."""
    names = options.against
    if names is None:
        names = tuple(n for n in dict.fromkeys((*DATASETS, *options.datasets)) if source.has(n, "test"))
    for name in names:
        found = source.find(name, "test")
        if found.path not in compared:
            questions = load_questions(found.path, dataset=name, on_bad=lambda message: None)
            known.add(questions)
            compared[found.path] = f"{name} ({len(questions):,})"


def _read(
    source: Source, split: str, options: PrepareConfig
) -> tuple[list[DatasetReport], dict[str, list[Question]], dict[str, Path]]:
    """Reports, questions and files of a split, the last two by data set."""
    reports, parts, files = [], {}, {}
    for name in options.datasets:
        found = source.find(name, split)
        bad: list[str] = []
        questions = load_questions(found.path, dataset=name, on_bad=bad.append if options.skip_bad else _refuse)
        if not options.keep_metadata:
            questions = [replace(question, metadata={}) for question in questions]
        published = published_count(name, split if found.split == WHOLE else found.split)
        reports.append(
            DatasetReport(
                name=name, file=found.path.name, sha256=file_sha256(found.path), split_read=found.split,
                rows=len(questions) + len(bad), published=published, unusable=len(bad), bad=bad[:_EXAMPLES],
                kept=len(questions),
            )
        )  # fmt: skip
        parts[name], files[name] = questions, found.path
    return reports, parts, files


def _refuse(message: str) -> None:
    raise DataError(f"{message}; fix it, or leave such rows out with --skip-bad")


def _count_warnings(sets: Sequence[DatasetReport], *, published: bool, allow: bool) -> list[str]:
    """Differences from the published row counts; from the hub they are an error, unless allowed."""
    wrong = [
        f"{report.name} ({report.split_read}) has {report.rows:,} rows, published are {report.published:,}"
        for report in sets
        if report.published is not None and report.rows != report.published
    ]
    if wrong and published and not allow:
        raise DataError(
            f"{'; '.join(wrong)}: the collection changed or a download is incomplete. Check --revision, or accept it "
            "with --allow-count-mismatch"
        )
    if wrong:
        logger.warning(
            "%s: these are not the full sets; their figures cannot be compared with others'", "; ".join(wrong)
        )
    return wrong


def _deduplicate(
    parts: dict[str, list[Question]], sets: Sequence[DatasetReport], *, known: Known
) -> tuple[dict[str, list[Question]], list[Removed]]:
    """Training questions without those of a test, and each text once over all data sets."""
    kept, removed = without_duplicates([q for questions in parts.values() for q in questions], known=known)
    for report in sets:
        report.removed = dict(Counter(r.reason for r in removed if r.dataset == report.name))
    return {name: [q for q in kept if q.dataset == name] for name in parts}, removed


def _selected(
    parts: dict[str, list[Question]], sets: Sequence[DatasetReport], *, split: str, options: PrepareConfig
) -> list[Question]:
    if options.mix is None or split != "train":
        numbers: dict[str, int | None] = dict.fromkeys(parts, options.limit if options.mix is None else None)
    else:
        counts = {name: len(questions) for name, questions in parts.items()}
        numbers = dict(shares(counts, weights=options.mix, limit=options.limit))
    # The data set's name is in the seed, so that other data sets do not change a draw.
    chosen = {name: draw(part, limit=numbers[name], seed=f"{options.seed}/{name}") for name, part in parts.items()}
    for report in sets:
        report.kept = len(chosen[report.name])
    questions = [question for part in chosen.values() for question in part]
    if split == "train":
        Random(options.seed).shuffle(questions)
    return questions


def _write(questions: list[Question], report: SplitReport, *, out: Path, options: PrepareConfig) -> None:
    report.rows = len(questions)
    report.repeated = 0 if report.split == "train" else len(repeated(questions))
    out.mkdir(parents=True, exist_ok=True)
    write_rows(Path(report.path), questions, split=report.split, prompt=options.prompt, prefix=options.prefix)
    write_json(out / f"{report.split}.report.json", asdict(report))
