"""The model that a KL term compares the policy with: ``training.reference``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig
from calibadv.models.load import load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_reference(config: ModelConfig, path: Path | str) -> None:
    """Refuse a reference whose token ids mean other tokens than those of the model that is trained.

    Raises:
        ConfigError: As that, or there is no such model.
    """
    try:
        reference = load_tokenizer(_reference(config, path)).get_vocab()
    except ConfigError as error:
        raise _named(error) from None
    own = load_tokenizer(config).get_vocab()
    if reference != own:
        other = sum(reference.get(token) != number for token, number in own.items())
        raise ConfigError(
            f"training.reference {path} has another vocabulary than model.path {config.path} ({len(reference)} and "
            f"{len(own)} tokens, {other} of them with another id or missing): their log-probabilities cannot be "
            "compared. Name a model with the same tokenizer, or leave training.reference out"
        )


def load_reference(config: ModelConfig, path: Path | str) -> PreTrainedModel:
    """The reference model, held as ``config`` says."""
    try:
        return load_model(_reference(config, path))[0]
    except ConfigError as error:
        raise _named(error) from None


def _reference(config: ModelConfig, path: Path | str) -> ModelConfig:
    return replace(config, path=path, gguf_file=None)


def _named(error: ConfigError) -> ConfigError:
    return ConfigError(str(error).replace("model.path", "training.reference"))
