"""LoRA: train two small matrices beside every linear layer and leave the model itself alone (Hu et al. 2021).

The settings are light; peft is imported when a model gets its adapter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval, MinLen

from calibadv.config_class import PositiveInt, Remedy, config_class, show
from calibadv.errors import ConfigError, first_line

ADAPTER_CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
INSTALL_LORA = "pip install 'calibadv[lora]'"


@config_class("lora")
class LoraConfig:
    """The [lora] section of a run."""

    rank: Annotated[PositiveInt | None, Remedy("leave it out to train all weights")] = None
    """Rank of the update of each covered layer, at most the smaller side of the largest of them; not set: all weights
    are trained and there is no adapter."""
    alpha: PositiveInt = 32
    """The update is scaled by ``alpha / rank``."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of inputs dropped in the adapter. Rollouts never drop any, so above 0 the loss is not that of the policy
    that played."""
    targets: Annotated[tuple[str, ...], MinLen(1), Remedy('name layers, such as "q_proj", or "all-linear"')] = (
        ALL_LINEAR,
    )
    """Names of the layers covered, such as "q_proj"; "all-linear": every linear layer but the head."""
    adapter: Path | None = None
    """Folder of an adapter to go on training instead of a fresh one, in peft's form, such as a checkpoint of a run. Its
    rank, alpha and targets hold; the settings of those names need not be given."""

    def __post_init__(self) -> None:
        if self.adapter is None or (self.rank is not None and not self.adapter.is_dir()):
            return  # of a run that has begun: the settings are there, and the adapter may be gone
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in adapter_settings(self.adapter).items():
            given = getattr(self, name)
            if given not in (value, defaults[name]):
                raise ConfigError(
                    f"lora.{name} is {show(given)}, but the adapter in lora.adapter {self.adapter} has {show(value)}: "
                    "leave it out"
                )
            object.__setattr__(self, name, value)

    def covers(self, name: str) -> bool:
        """Whether the linear layer of this dotted name gets an adapter.

        >>> LoraConfig(targets=("q_proj",)).covers("model.layers.0.self_attn.q_proj")
        True
        """
        return ALL_LINEAR in self.targets or name.rsplit(".", 1)[-1] in self.targets


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Rank, alpha and targets of the adapter in ``folder``; `ConfigError` where it cannot be continued."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, targets = config.get("peft_type"), config["target_modules"]
        settings = {"rank": int(config["r"]), "alpha": int(config["lora_alpha"])}
    except FileNotFoundError:
        raise ConfigError(f"lora.adapter {folder}: no adapter there (no {ADAPTER_CONFIG}); name its folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"lora.adapter {folder}: its {ADAPTER_CONFIG} cannot be read ({error!r})") from error
    more = [name for name in ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if kind != "LORA" or more or not isinstance(targets, list):
        what = ", ".join(more) or (f"peft_type {kind}" if kind != "LORA" else "targets by a pattern")
        raise ConfigError(f"lora.adapter {folder}: only plain LoRA can be continued, and this adapter has {what}")
    return settings | {"targets": tuple(sorted(targets))}


def has_transposed_layers(model: Any) -> bool:
    """Whether the model has layers that hold their weights the other way round, as GPT-2's do; peft must know."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def covered_layers(model: Any, *, settings: LoraConfig) -> dict[str, tuple[int, int]]:
    """Input and output size of every layer that gets an adapter, by its dotted name; `ConfigError` where it cannot.

    The model may be one without memory: only its layers are looked at.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            sizes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            sizes[name] = (module.nx, module.nf)
    heads = {name for name, module in model.named_modules() if module is head}
    known = sorted({name.rsplit(".", 1)[-1] for name in sizes.keys() - heads})
    for target in settings.targets:
        found = {name for name in sizes if name.rsplit(".", 1)[-1] == target}
        if target != ALL_LINEAR and (not found or found & heads):
            why = "is the head, which stays as it is" if found & heads else "is no linear layer of this model"
            raise ConfigError(f'lora.targets: "{target}" {why}; choose from {", ".join((ALL_LINEAR, *known))}')
    covered = {name: sides for name, sides in sizes.items() if name not in heads and settings.covers(name)}
    largest = max((min(sides) for sides in covered.values()), default=0)
    if settings.rank is not None and settings.rank > largest:
        raise ConfigError(
            f"lora.rank must be at most {largest}, the smaller side of the largest layer that it covers, got "
            f"{settings.rank}; usual are 8 to 128"
        )
    return covered


def add_adapter(model: Any, *, settings: LoraConfig, base: str, seed: int = 0) -> Any:
    """The model with a fresh adapter; the model itself when ``settings`` asks for none.

    ``base`` is the ``model.path`` of the model: checkpoints hold the adapter only, and name it. ``seed`` decides the
    adapter's first weights.
    """
    if settings.rank is None:
        return model
    try:
        import peft
        import torch
    except ImportError as error:
        raise ConfigError(f"lora.rank needs the package peft: {INSTALL_LORA}") from error
    covered_layers(model, settings=settings)
    if settings.adapter is not None:
        return continued(model, settings.adapter, dropout=settings.dropout, base=base)
    targets = ALL_LINEAR if ALL_LINEAR in settings.targets else list(settings.targets)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=has_transposed_layers(model),
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora.targets {list(settings.targets)}: {first_line(error)}") from error
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def continued(model: Any, folder: Path, *, dropout: float, base: str) -> Any:
    """The model with the adapter in ``folder``, to be trained further."""
    import peft

    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        config.lora_dropout = dropout
        config.inference_mode = False
        config.base_model_name_or_path = base
        return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=config)
    except Exception as error:  # loaders raise whatever their file formats raise
        raise ConfigError(
            f"lora.adapter {folder} does not fit model.path {base} ({first_line(error)}); was it trained on this model?"
        ) from error


def is_adapted(model: Any) -> bool:
    """Whether the model has an adapter."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def save_merged(model: Any, folder: Path, *, weights: dict[str, Any] | None = None) -> None:
    """Save the model in Hugging Face form, the adapter merged into the weights; the model in memory stays as it is.

    Merging and taking apart again would round the weights, and a resumed run would no longer be the same to the bit.
    ``weights`` are those to save where the model itself holds a share of them only.
    """
    if not is_adapted(model):
        model.save_pretrained(folder, state_dict=weights)
        return
    base = model.get_base_model()
    base.save_pretrained(folder, state_dict=merged_weights(base) if weights is None else weights)


def merged_weights(base: Any) -> dict[str, Any]:
    """The weights of a model inside of its adapter, each covered layer with its update added."""
    return dict(iter_merged_weights(base))


def iter_merged_weights(base: Any, *, parameters_only: bool = False) -> Iterator[tuple[str, Any]]:
    """As `merged_weights`, one at a time; ``parameters_only``: no buffers, and a shared weight once."""
    import torch

    covered = {
        name: module
        for name, module in base.named_modules()
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
    }
    weights = base.named_parameters() if parameters_only else base.state_dict().items()
    for name, value in weights:
        if ".lora_" in name:
            continue
        value = value.detach()
        owner = name.removesuffix(".base_layer.weight")
        if owner != name and owner in covered:
            module = covered[owner]
            with torch.no_grad():
                value = value + module.get_delta_weight(module.active_adapters[0]).to(value.dtype)
        yield name.replace(".base_layer.", "."), value


def base_of_adapter(folder: Path) -> str:
    """The ``model.path`` of the model that the adapter in ``folder`` was trained on."""
    try:
        name = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model.path {folder}: its {ADAPTER_CONFIG} cannot be read ({error})") from error
    return str(name)


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter in ``folder`` merged into its weights."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ConfigError(f"model.path {folder} is a LoRA adapter: {INSTALL_LORA}") from error
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
