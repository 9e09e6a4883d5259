"""Questions as rows of parquet that this package, Search-R1 and verl read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibadv.dialogue.prompt import PROMPTS
from calibadv.io.files import new_file
from calibadv.io.packages import require_packages
from calibadv.trajectory import Question

ABILITY = "fact-reasoning"
_ROWS_PER_GROUP = 2000


def to_row(question: Question, *, index: int, split: str, prompt: str, prefix: str = "") -> dict[str, Any]:
    """One row: the columns that Search-R1 and verl look for, then ours.

    >>> q = Question(id="7", text="Where?", golden_answers=("Oslo",), dataset="nq")
    >>> row = to_row(q, index=0, split="test", prompt="question")
    >>> row["prompt"], row["reward_model"]["ground_truth"]
    ([{'role': 'user', 'content': 'Where?'}], {'target': ['Oslo']})
    """
    content = PROMPTS[prompt].text.replace("{question}", question.text)
    return {
        "data_source": prefix + question.dataset,
        "prompt": [{"role": "user", "content": content}],
        "ability": ABILITY,
        "reward_model": {"style": "rule", "ground_truth": {"target": list(question.golden_answers)}},
        "extra_info": {"index": index, "split": split, "question": question.text},
        "id": question.id,
        "question": question.text,
        "golden_answers": list(question.golden_answers),
        "metadata": _as_text(question.metadata),
    }


def write_rows(path: Path, questions: Sequence[Question], *, split: str, prompt: str, prefix: str = "") -> None:
    """Write a parquet file in one go: it is complete or it is not there."""
    require_packages("pyarrow", extra="retrieval", what="writing parquet")
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(pa)
    try:
        with new_file(path) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
            for rows in _batches(questions, split=split, prompt=prompt, prefix=prefix):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    except OSError as error:  # pyarrow's names no file
        raise OSError(f"{path} was not written: {error}") from error


def _as_text(metadata: Mapping[str, Any]) -> str:
    """As JSON; half a surrogate pair, which is no character and cannot be stored, is written as its escape."""
    text = json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _batches(questions: Sequence[Question], **how: Any) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(questions), _ROWS_PER_GROUP):
        batch = questions[start : start + _ROWS_PER_GROUP]
        yield [to_row(question, index=start + offset, **how) for offset, question in enumerate(batch)]


def _schema(pa: Any) -> Any:
    def struct(**fields: Any) -> Any:
        return pa.struct(list(fields.items()))

    text, texts = pa.string(), pa.list_(pa.string())
    return pa.schema(
        list(
            struct(
                data_source=text,
                prompt=pa.list_(struct(role=text, content=text)),
                ability=text,
                reward_model=struct(style=text, ground_truth=struct(target=texts)),
                extra_info=struct(index=pa.int64(), split=text, question=text),
                id=text,
                question=text,
                golden_answers=texts,
                metadata=text,
            )
        )
    )
