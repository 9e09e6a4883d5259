"""Texts to vectors: one encoder on one device, batched by length, results in the order of the input."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.devices import quiet_loading, usable_device
from calibadv.errors import ConfigError, RetrieverError, first_line
from calibadv.io.packages import require_packages
from calibadv.retrieval.corpus.text import contents
from calibadv.retrieval.dense.encoder_config import EncoderConfig, EncoderSpec, describe
from calibadv.retrieval.dense.encoder_files import check_tokenizer, model_folder
from calibadv.trajectory import Document

logger = logging.getLogger(__name__)


class Encoder:
    """Encodes documents and queries by the model's convention. Safe to call from several threads: they take turns."""

    def __init__(self, config: EncoderConfig) -> None:
        require_packages("torch", "transformers", "sentence_transformers", extra="dense", what="encoding")
        self.config = config
        spec = describe(config)
        self._device = usable_device(config.device, setting="the encoder's device")
        self._torch_dtype, dtype = _dtype(config.dtype, device=self._device)
        self.spec = replace(spec, dtype=dtype)
        self._lock = threading.Lock()
        self._passages = self._load(spec.model)
        self._queries = self._passages if spec.query_model == spec.model else self._load(spec.query_model)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.spec.dimension

    def encode_documents(
        self, documents: Sequence[Document], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """One vector a document, [num_documents, dimension]; ``progress`` is told between batches how many are done."""
        prefix = self.spec.passage_prefix
        texts = [prefix + self._text(document) for document in documents]
        return self._encode(texts, self._passages, progress=progress)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """One vector a query, [num_queries, dimension]."""
        return self._encode([self.spec.query_prefix + query for query in queries], self._queries)

    def _text(self, document: Document) -> str:
        if self.spec.document_text == "title_sep_text":
            return f"{document.title} {self._passages.separator} {document.text}"
        return contents(document)

    def _encode(
        self, texts: Sequence[str], model: _Model, *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        import torch

        vectors = np.empty((len(texts), self.spec.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # neighbours of one length: little padding
        size = self.config.batch_size
        with self._lock, torch.inference_mode():
            for start in range(0, len(order), size):
                if progress is not None and start:
                    progress(start)
                rows = order[start : start + size]
                try:
                    batch = model.embed([texts[row] for row in rows])
                except RuntimeError as error:  # out of memory, above all
                    raise RetrieverError(
                        f"encoder {self.spec.model}: a batch of {len(rows)} texts failed ({error}); "
                        "lower the encoder's batch_size or max_length"
                    ) from error
                if self.spec.normalize:
                    batch = torch.nn.functional.normalize(batch, dim=-1)
                vectors[rows] = batch.cpu().numpy()
        return vectors

    def _load(self, name: str) -> _Model:
        folder = model_folder(name)
        check_tokenizer(folder)
        with quiet_loading():
            if self.spec.pooling == "modules":
                return _ModulesModel(folder, spec=self.spec, device=self._device, dtype=self._torch_dtype)
            return _PlainModel(folder, spec=self.spec, device=self._device, dtype=self._torch_dtype)


class _Model(ABC):
    """What both ways of running a model share."""

    separator: str

    @abstractmethod
    def embed(self, texts: list[str]) -> Any:
        """A float32 tensor [num_texts, dimension] on the model's device."""


class _ModulesModel(_Model):
    """A sentence-transformers folder, run by its own modules."""

    def __init__(self, folder: Path, *, spec: EncoderSpec, device: str, dtype: Any) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(folder),
                device=device,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
                local_files_only=True,
            )
        except Exception as error:  # the libraries raise a dozen kinds for a broken file
            raise ConfigError(
                f"the encoder's model {folder}: cannot be loaded ({first_line(error)}); fetch the model again"
            ) from error
        model.max_seq_length = spec.max_length
        if (spec.query_prefix or spec.passage_prefix) and any(
            getattr(module, "include_prompt", True) is False for module in model
        ):
            raise ConfigError(f"the encoder's model {folder}: its pooling leaves the prompt out: not supported here")
        self._model = model.eval()
        self._tokenize = getattr(model, "preprocess", None) or model.tokenize
        self.separator = str(getattr(model.tokenizer, "sep_token", None) or " ")

    def embed(self, texts: list[str]) -> Any:
        features = self._tokenize(texts)
        features = {
            name: value.to(self._model.device) if hasattr(value, "to") else value for name, value in features.items()
        }
        return self._model(features)["sentence_embedding"].float()


class _PlainModel(_Model):
    """A transformers model with our own pooling."""

    def __init__(self, folder: Path, *, spec: EncoderSpec, device: str, dtype: Any) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model = _model_class(folder, spec).from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, local_files_only=True
            )
        except Exception as error:  # the libraries raise a dozen kinds for a broken file
            raise ConfigError(
                f"the encoder's model {folder}: cannot be loaded ({first_line(error)}); the folder needs config.json, "
                "*.safetensors and the tokenizer's files"
            ) from error
        if spec.pooling == "last" and self._tokenizer.padding_side != "right":
            self._tokenizer.padding_side = "right"
        self._model = model.to(device).eval()
        self._pooling, self._max_length, self._device = spec.pooling, spec.max_length, device
        self.separator = str(self._tokenizer.sep_token or " ")

    def embed(self, texts: list[str]) -> Any:
        features = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        output = self._model(**features)
        if self._pooling == "pooler":
            return output.pooler_output.float()
        hidden, mask = output.last_hidden_state.float(), features["attention_mask"]
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[range(len(texts)), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _model_class(folder: Path, spec: EncoderSpec) -> Any:
    import transformers

    if spec.family != "dpr":
        return transformers.AutoModel
    architectures = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True).architectures or [""]
    is_question = "Question" in architectures[0]
    return transformers.DPRQuestionEncoder if is_question else transformers.DPRContextEncoder


def _dtype(dtype: str, *, device: str) -> tuple[Any, str]:
    import torch

    on_cpu = torch.device(device).type == "cpu"
    if dtype == "auto":
        dtype = "float32" if on_cpu else "float16"
    if dtype == "float16" and on_cpu:
        raise ConfigError("the encoder's dtype float16 needs a GPU; on a CPU use float32 or bfloat16")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype], dtype
