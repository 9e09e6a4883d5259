"""What the launcher asked for (``accelerate launch`` and torchrun put it into the environment), and what fits a run.

Light: imports no torch, so that a launch that cannot work is refused before anything slow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from calibadv.errors import ConfigError

FILES = "configs/accelerate"
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""``model.dtype`` and accelerate's name for computing in it."""
SHARDED = {"fsdp2": "FSDP2", "zero3": "DeepSpeed ZeRO-3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Processes of a run and how they divide the weights."""

    processes: int = 1
    sharding: Literal["none", "fsdp2", "zero3"] = "none"
    mixed_precision: str = "no"
    """accelerate's; "no" leaves it to ``model.dtype``."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The launch of this process.

        Raises:
            ConfigError: It asks for something that no run here can do.
        """
        return cls(
            processes=int(environment.get("WORLD_SIZE", "1")),
            sharding=_sharding(environment),
            mixed_precision=environment.get("ACCELERATE_MIXED_PRECISION", "no"),
        )

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole weights."""
        return self.sharding != "none"

    def check_precision(self, dtype: str) -> None:
        """Refuse a ``mixed_precision`` that is not that of ``model.dtype``."""
        if self.mixed_precision not in ("no", PRECISIONS[dtype]):
            wanted = next((name for name, theirs in PRECISIONS.items() if theirs == self.mixed_precision), None)
            raise ConfigError(
                f'mixed_precision (accelerate\'s file or ACCELERATE_MIXED_PRECISION) is "{self.mixed_precision}", but '
                f'model.dtype is "{dtype}", which decides: set mixed_precision to "no"'
                + (f' or model.dtype = "{wanted}"' if wanted else "")
            )

    def check_whole(self, *, what: str) -> None:
        """Refuse sharded weights where every process needs them whole."""
        if self.is_sharded:
            raise ConfigError(
                f"the launcher shards the weights ({SHARDED[self.sharding]}), but {what} needs them whole in every "
                "process: launch without that accelerate file"
            )

    def check_engine(self, engine: str) -> None:
        """Refuse to play rollouts with a model of which each process holds a part only."""
        if self.is_sharded and engine == "transformers":
            raise ConfigError(
                f'model.engine "transformers" plays rollouts with the whole weights, but the launcher shards them '
                f'({SHARDED[self.sharding]}): set model.engine = "vllm" (or an engine of yours), or launch without '
                "that accelerate file"
            )

    def check_applied(self, *, is_sharding: bool, device: str) -> None:
        """Refuse a launcher's sharding that accelerate has passed over, as it does on a CPU."""
        if self.is_sharded and not is_sharding:
            raise ConfigError(
                f"the launcher asks for {SHARDED[self.sharding]}, but on {device} with {self.processes} process(es) "
                "accelerate does not shard weights: launch without that accelerate file, or on several GPUs"
            )

    def check_checkpointing(self, *, ours: bool, environment: Mapping[str, str] = os.environ) -> None:
        """Activation checkpointing is switched on in one place."""
        if self.sharding == "fsdp2" and is_on(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
            raise ConfigError(
                "fsdp_activation_checkpointing (accelerate's file) is on, and training.activation_checkpointing is "
                f"{str(ours).lower()}, which decides: set fsdp_activation_checkpointing: false"
            )


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether a variable of accelerate says yes."""
    return environment.get(name, "").lower() in ("1", "true", "yes")


def _sharding(environment: Mapping[str, str]) -> Literal["none", "fsdp2", "zero3"]:
    for name, what in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism_config")):
        if is_on(environment, f"ACCELERATE_USE_{name}"):
            raise ConfigError(f"the launcher asks for {what}, which training cannot use: take a file of {FILES}")
    if is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        _check_deepspeed(environment)
        return "zero3"
    if is_on(environment, "ACCELERATE_USE_FSDP"):
        _check_fsdp(environment)
        return "fsdp2"
    return "none"


def _check_fsdp(environment: Mapping[str, str]) -> None:
    version = environment.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"fsdp_version (accelerate's file) is {version}: set it to 2, as in {FILES}/fsdp2.yaml")
    if is_on(environment, "FSDP_OFFLOAD_PARAMS"):
        raise ConfigError(
            "fsdp_offload_params (accelerate's file) is not supported: set it to false and take more GPUs"
        )


def _check_deepspeed(environment: Mapping[str, str]) -> None:
    own_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if own_file.lower() not in ("", "none"):
        raise ConfigError(
            f"deepspeed_config_file (accelerate's file) is {own_file}: its settings would compete with those of "
            f"[training]; take {FILES}/zero3.yaml"
        )
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "3":
        raise ConfigError(
            f"deepspeed_config.zero_stage (accelerate's file) is {stage}: set it to 3, as in {FILES}/zero3.yaml, or "
            "launch without DeepSpeed for whole weights in every process"
        )
