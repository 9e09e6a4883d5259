"""How an encoder wants to be used: pooling, prefixes, normalisation, length.

The same weights give useless vectors under another convention, and nothing in a search looks wrong then. So the
convention is inferred from the model's name and configuration, every part can be overridden, and what was used is
recorded with the index (`EncoderSpec`) and checked when the index is opened.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from calibadv.config_class import Name, PositiveInt, Remedy, config_class
from calibadv.errors import ConfigError, DataError
from calibadv.io.files import read_json
from calibadv.io.provenance import model_fingerprint
from calibadv.retrieval.dense.encoder_files import model_folder

Pooling = Literal["mean", "cls", "last", "pooler", "modules"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Family = Literal["e5", "bge", "dpr", "sentence-transformers", "plain"]
DocumentText = Literal["contents", "title_sep_text"]

MAX_LENGTH = 512
"""Longest text in tokens where neither the model nor the user sets a limit."""
_PREFIXES = {"e5": ("query: ", "passage: "), "bge": ("Represent this sentence for searching relevant passages: ", "")}
"""Of queries and of documents."""
_E5 = re.compile(r"(^|[^a-z0-9])e5([^a-z0-9]|$)")
_BGE = re.compile(r"(^|[^a-z0-9])bge([^a-z0-9]|$)")

AGAIN = "fetch the model again"


@config_class()
class EncoderConfig:
    """Which encoder, and where its convention is not what the name suggests."""

    model: Annotated[Name, Remedy("name a folder or a hub id, such as intfloat/e5-base-v2")]
    """A folder with the model and its tokenizer, or a Hugging Face hub id. Weights are safetensors."""
    query_model: str | None = None
    """Encoder of the queries where it is another one (DPR). Not set: inferred for DPR, else the same."""
    pooling: Literal["mean", "cls", "last", "pooler"] | None = None
    """Which vector stands for the text. Not set: the model's own modules or convention."""
    query_prefix: str | None = None
    """Put before every query. Not set: the convention."""
    passage_prefix: str | None = None
    """Put before every document. Not set: the convention."""
    normalize: bool | None = None
    """Scale vectors to length 1. Not set: the convention."""
    max_length: PositiveInt | None = None
    """Longest text in tokens, the rest is cut. Not set: the model's own limit, at most 512."""
    dtype: Dtype = "auto"
    """Arithmetic of the model: float32 on a CPU and float16 on a GPU for auto; bfloat16 works on both."""
    batch_size: PositiveInt = 64
    """Texts per forward pass."""
    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder with its convention settled: what the vectors of an index depend on."""

    model: str
    query_model: str
    family: Family
    pooling: Pooling
    """"modules": the folder's own sentence-transformers modules decide."""
    query_prefix: str
    passage_prefix: str
    normalize: bool
    max_length: int
    dimension: int
    document_text: DocumentText = "contents"
    """How a document becomes text: the wiki-18 form, or DPR's pair of title and text."""
    dtype: str = "float32"
    """Arithmetic that encoded the documents."""
    fingerprint: str | None = None
    """`model_fingerprint` of the documents' encoder; None where it was not at hand (a published index)."""
    query_fingerprint: str | None = None

    def config(self, *, model: str | None = None, device: str = "auto", batch_size: int = 64) -> EncoderConfig:
        """The config that gives this encoder again; ``model`` where it lies elsewhere by now."""
        same = self.query_model == self.model
        return EncoderConfig(
            model=model or self.model,
            query_model=None if same else self.query_model,
            pooling=None if self.pooling == "modules" else self.pooling,
            query_prefix=self.query_prefix,
            passage_prefix=self.passage_prefix,
            normalize=self.normalize,
            max_length=self.max_length,
            device=device,
            batch_size=batch_size,
        )

    def as_parameters(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    @classmethod
    def from_parameters(cls, record: Any, *, where: str) -> EncoderSpec:
        """The spec that a manifest recorded."""
        names = {f.name for f in fields(cls)}
        if not isinstance(record, dict) or not {"model", "pooling", "dimension"} <= record.keys() <= names:
            raise DataError(f"{where}: the manifest does not describe its encoder; build the index again")
        return cls(**record)


def describe(config: EncoderConfig) -> EncoderSpec:
    """Settle the convention from the model's files; reads configuration and hashes, loads no weights."""
    folder = model_folder(config.model)
    model = str(folder.resolve()) if Path(config.model).expanduser().is_dir() else config.model
    modules = _modules(folder)
    inner = folder if (folder / "config.json").is_file() else folder / modules[0].path
    settings = read_json(inner / "config.json", remedy=AGAIN)
    family = family_of(config.model, settings, folder=folder)
    query_model = _query_model(config, family)
    by_modules = bool(modules) and config.pooling is None and family != "dpr"
    prompts = _prompts(folder) if by_modules else {}
    normalizes = any(module.kind == "Normalize" for module in modules)
    if by_modules and normalizes and config.normalize is False:
        raise ConfigError(
            f"normalize is false, but the modules of {config.model} normalise; set pooling to use the "
            "model without its modules"
        )
    query_prefix, passage_prefix = _PREFIXES.get(family, ("", ""))
    default_normalize = normalizes if by_modules and family == "sentence-transformers" else family != "dpr"
    fingerprint_ = model_fingerprint(folder)
    return EncoderSpec(
        model=model,
        query_model=model if query_model == config.model else query_model,
        family=family,
        pooling="modules" if by_modules else (config.pooling or _default_pooling(family)),
        query_prefix=_first(config.query_prefix, prompts.get("query"), query_prefix),
        passage_prefix=_first(
            config.passage_prefix,
            prompts.get("document"),
            prompts.get("passage"),
            prompts.get("corpus"),
            passage_prefix,
        ),
        normalize=default_normalize if config.normalize is None else config.normalize,
        max_length=config.max_length or _max_length(inner, settings, by_modules=by_modules),
        dimension=_dimension(folder, settings, modules=modules if by_modules else [], where=config.model),
        document_text="title_sep_text" if family == "dpr" else "contents",
        fingerprint=fingerprint_,
        query_fingerprint=fingerprint_ if query_model == config.model else model_fingerprint(model_folder(query_model)),
    )


def family_of(model: str, settings: dict[str, Any], *, folder: Path | None) -> Family:
    """Which convention a model follows, by its name (also the one its config remembers), type and files.

    >>> family_of("intfloat/e5-base-v2", {}, folder=None), family_of("BAAI/bge-small-en", {}, folder=None)
    ('e5', 'bge')
    >>> family_of("bert-base-uncased", {"model_type": "bert"}, folder=None)
    'plain'
    """
    if settings.get("model_type") == "dpr":
        return "dpr"
    for name in (Path(model).name.lower(), str(settings.get("_name_or_path", "")).lower().rpartition("/")[2]):
        if _E5.search(name):
            return "e5"
        if _BGE.search(name):
            return "bge"
    return "sentence-transformers" if folder is not None and (folder / "modules.json").is_file() else "plain"


def published(config: EncoderConfig, *, dimension: int) -> EncoderSpec:
    """The convention of a model that is not at hand, by its name alone; opening the index checks the dimension."""
    family = family_of(config.model, {}, folder=None)
    if family not in ("e5", "bge"):
        raise ConfigError(
            f"the encoder's model {config.model}: not on this machine, and its name does not tell its convention; "
            "fetch it first"
        )
    query_prefix, passage_prefix = _PREFIXES[family]
    return EncoderSpec(
        model=config.model,
        query_model=config.query_model or config.model,
        family=family,
        pooling=config.pooling or _default_pooling(family),
        query_prefix=_first(config.query_prefix, query_prefix),
        passage_prefix=_first(config.passage_prefix, passage_prefix),
        normalize=config.normalize is not False,
        max_length=config.max_length or MAX_LENGTH,
        dimension=dimension,
    )


def _first(*values: str | None) -> str:
    return next(value for value in values if value is not None)


def _default_pooling(family: Family) -> Pooling:
    if family == "dpr":
        return "pooler"
    return "cls" if family == "bge" else "mean"


def _query_model(config: EncoderConfig, family: Family) -> str:
    """DPR has an encoder of its own for questions; both names differ in one word."""
    if config.query_model is not None:
        return config.query_model
    if family != "dpr":
        return config.model
    guess = config.model.replace("ctx_encoder", "question_encoder")
    if guess == config.model:
        raise ConfigError(f"the encoder's model {config.model} is one half of DPR; name the other one (query_model)")
    return guess


class _Module(NamedTuple):
    """One of the modules of a sentence-transformers folder."""

    kind: str
    path: str


def _modules(folder: Path) -> list[_Module]:
    """The sentence-transformers modules, [] for a plain model."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [_Module(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in found]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a list of modules ({error}); fetch the model again") from error


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    prompts = read_json(path, remedy=AGAIN).get("prompts") if path.is_file() else None
    return {name: text for name, text in prompts.items() if text} if isinstance(prompts, dict) else {}


def _max_length(folder: Path, settings: dict[str, Any], *, by_modules: bool) -> int:
    if by_modules and (folder / "sentence_bert_config.json").is_file():
        own = read_json(folder / "sentence_bert_config.json", remedy=AGAIN).get("max_seq_length")
        if isinstance(own, int):
            return own
    positions = settings.get("max_position_embeddings")
    limit = positions if isinstance(positions, int) and positions > 0 else MAX_LENGTH
    if settings.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        limit -= 2  # these count positions from 2
    return min(limit, MAX_LENGTH)


def _dimension(folder: Path, settings: dict[str, Any], *, modules: list[_Module], where: str) -> int:
    dense = [module for module in modules if module.kind == "Dense"]
    if dense:
        return int(read_json(folder / dense[-1].path / "config.json", remedy=AGAIN)["out_features"])
    size = (
        settings.get("projection_dim") or settings.get("hidden_size") or settings.get("d_model") or settings.get("dim")
    )
    if not isinstance(size, int):
        raise ConfigError(
            f"the encoder's model {where}: its config.json names no hidden size; this is not a text encoder"
        )
    return size
