"""Re-ranking: a cross-encoder reads query and document together and sorts what a retriever found.

The published system retrieves 20 documents and keeps the best 3 of them this way. Its model sees a document as
``(Title: "T") text``; so does ours. A training step has 150,000 pairs, so what costs time is kept small: equal pairs
are scored once, pairs of similar length share a batch, and a batch that does not fit into memory is halved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from calibadv.devices import quiet_loading, usable_device
from calibadv.errors import ConfigError, RetrieverError, first_line
from calibadv.io.packages import require_packages
from calibadv.io.provenance import json_sha256, model_fingerprint
from calibadv.retrieval.base import Hit, Retriever, check_search
from calibadv.retrieval.dense.encoder_files import hub_folder
from calibadv.trajectory import Document

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "float16", "bfloat16"]
Pair = tuple[str, Document]


class Reranker(Protocol):
    """Anything that says how well documents answer a query (larger is better)."""

    def score(self, pairs: Sequence[Pair]) -> list[float]: ...

    def manifest(self) -> dict[str, Any]: ...


def rerank_text(document: Document) -> str:
    """What a re-ranker reads of a document.

    >>> rerank_text(Document(id="7", title="Ada Lovelace", text="Ada wrote programs."))
    '(Title: "Ada Lovelace") Ada wrote programs.'
    >>> rerank_text(Document(id="8", title="", text="Plain text."))
    'Plain text.'
    """
    return f'(Title: "{document.title}") {document.text}' if document.title else document.text


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers. One thread at a time.

    ``model`` is a folder or a hub id with a trained one-number head; ``device`` is chosen when not given; ``precision``
    "auto" is float16 on a GPU and float32 elsewhere. Scores pass through the model's own activation, in double
    precision, so that equal scores are ties of the model and not of a rounded sigmoid.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        max_length: int = 512,
        batch_size: int = 64,
        precision: Precision = "auto",
    ) -> None:
        for name, value in (("max_length", max_length), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"rerank.{name} must be >= 1, got {value}")
        self.model = str(model)
        self.max_length = max_length
        self.batch_size = batch_size
        folder = _model_folder(self.model)
        self._encoder = _load(folder, model=self.model, device=device, max_length=max_length, precision=precision)
        self._fingerprint = model_fingerprint(folder)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """One score a pair, in order."""
        rows: dict[tuple[str, str], int] = {}
        texts = [(query, rerank_text(document)) for query, document in pairs]
        for text in texts:
            rows.setdefault(text, len(rows))
        distinct = list(rows)
        order = sorted(range(len(distinct)), key=lambda row: len(distinct[row][0]) + len(distinct[row][1]))
        scores = [0.0] * len(distinct)
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            for row, score in zip(some, self._score_batch([distinct[row] for row in some]), strict=True):
                scores[row] = score
        return [scores[rows[text]] for text in texts]

    def manifest(self) -> dict[str, Any]:
        """What identifies the model: recorded with evaluations."""
        return {"model": self.model, "fingerprint": self._fingerprint, "max_length": self.max_length}

    def _score_batch(self, texts: list[tuple[str, str]]) -> list[float]:
        import torch

        try:
            logits = self._encoder.predict(
                texts, batch_size=len(texts), activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        except torch.OutOfMemoryError as error:
            if len(texts) == 1:
                raise RetrieverError(f"the re-ranker {self.model} does not fit into memory: {error}") from error
            logger.warning("a re-ranking batch of %d pairs did not fit into memory; halving it", len(texts))
            torch.cuda.empty_cache()
            half = len(texts) // 2
            return self._score_batch(texts[:half]) + self._score_batch(texts[half:])
        scores = self._encoder.activation_fn(torch.as_tensor(logits, dtype=torch.float64))
        if not bool(torch.isfinite(scores).all()):
            raise RetrieverError(f"the re-ranker {self.model} gave a score that is not a number; use precision float32")
        return [float(score) for score in scores.tolist()]


class RerankedRetriever:
    """Finds ``candidates`` documents a query with one retriever and sorts them by a re-ranker.

    Equal scores stay in the order of the retriever. Asked for more than ``candidates``, it re-ranks that many.
    """

    def __init__(self, retriever: Retriever, reranker: Reranker, *, candidates: int = 20) -> None:
        if candidates < 1:
            raise ConfigError(f"candidates must be >= 1, got {candidates}")
        self.retriever = retriever
        self.reranker = reranker
        self.candidates = candidates

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits a query, best first by the re-ranker, with its scores."""
        check_search(queries, k)
        return [best_first(hits)[:k] for hits in self.scored(queries, max(k, self.candidates))]

    def scored(self, queries: Sequence[str], candidates: int) -> list[list[Hit]]:
        """The candidates of each query in the retriever's order, with the re-ranker's scores."""
        distinct = list(dict.fromkeys(queries))
        found = dict(zip(distinct, self.retriever.search(distinct, candidates), strict=True))
        pairs = [(query, hit.document) for query, hits in found.items() for hit in hits]
        scores = iter(self.reranker.score(pairs))
        answers = {query: [Hit(hit.document, next(scores)) for hit in hits] for query, hits in found.items()}
        return [answers[query] for query in queries]

    def close(self) -> None:
        """Close the retriever inside, if it can be closed."""
        if (close := getattr(self.retriever, "close", None)) is not None:
            close()

    @property
    def corpus(self) -> Any:
        """The corpus of the retriever inside."""
        return getattr(self.retriever, "corpus", None)

    def manifest(self) -> dict[str, Any]:
        """The index, the model and the number of candidates: what decides the answers."""
        inner = getattr(self.retriever, "manifest", None)
        return {
            "method": "reranked",
            "retriever": inner() if inner is not None else {"method": type(self.retriever).__name__},
            "reranker": self.reranker.manifest(),
            "candidates": self.candidates,
        }

    @property
    def version(self) -> str:
        """Digest of everything that decides the answers; wherever the model's folder lies."""
        reranker = {name: value for name, value in self.reranker.manifest().items() if name != "model"}
        identity = [getattr(self.retriever, "version", ""), reranker, self.candidates]
        return json_sha256(identity)


def best_first(hits: Sequence[Hit]) -> list[Hit]:
    """Sorted by score; equal scores keep their order."""
    return sorted(hits, key=lambda hit: -hit.score)


def _model_folder(model: str) -> Path:
    """The folder of the model; one of the hub is fetched, with pickled weights only where it has no others."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.count("/") != 1:
        raise ConfigError(f"the re-ranker {model} is neither a folder nor a hub id (owner/name)")
    what = f"the re-ranker {model}"
    folder = hub_folder(model, what=what)
    return folder if any(folder.glob("*.safetensors")) else hub_folder(model, what=what, patterns=("*.bin",))


def _load(folder: Path, *, model: str, device: str | None, max_length: int, precision: Precision) -> Any:
    require_packages("torch", "transformers", "sentence_transformers", extra="dense", what="re-ranking")
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig

    if device is not None:
        device = usable_device(device, setting="the re-ranker's device")
    try:
        kinds = AutoConfig.from_pretrained(folder).architectures or []
        if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
            raise ConfigError(
                f"{model} is no re-ranker: it is a {', '.join(kinds) or 'model of unknown kind'} and has no trained "
                "classification head; name a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L12-v2"
            )
        with quiet_loading():
            encoder = CrossEncoder(str(folder), device=device, max_length=max_length, local_files_only=True)
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds for a broken file
        raise ConfigError(
            f"cannot load the re-ranker {model} ({first_line(error)}); it needs config.json, *.safetensors and the "
            "tokenizer's files: fetch it again, or name another one"
        ) from error
    if encoder.num_labels != 1:
        raise ConfigError(
            f"{model} gives {encoder.num_labels} numbers a pair, a re-ranker gives one; name another model"
        )
    if precision == "auto":
        precision = "float16" if encoder.device.type == "cuda" else "float32"
    encoder.to(dtype=getattr(torch, precision))
    encoder.eval()
    return encoder
