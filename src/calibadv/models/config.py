"""The [model] section: which model, which engine writes with it, and where that engine is. Light: imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from annotated_types import Ge

from calibadv.config_class import Count, Name, PositiveFloat, PositiveInt, config_class
from calibadv.devices import usable_device
from calibadv.errors import ConfigError
from calibadv.registry import is_import_path

TRAINABLE = ("transformers", "vllm")
SERVERS = ("vllm-server", "openai")
API_KEY_ENV = {"vllm-server": "VLLM_API_KEY", "openai": "OPENAI_API_KEY"}
"""Environment variables that hold the key for a server, where ``api_key_env`` names no other."""


@config_class("model")
class ModelConfig:
    """Which model, and how it is held."""

    path: Path | Name
    """A local folder, a .gguf file, a hub id (``org/name``), or ``package:NAME[/SUBFOLDER]``: the model inside an
    installed Python package. A relative path of a folder that exists wins over a hub id."""
    gguf_file: str | None = None
    """Name of the .gguf file inside ``path``; needed only when the folder holds several."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; training keeps float32 weights and optimizer and computes in this type (autocast), "float16" on
    accelerators only."""
    quantization: Literal["4bit"] | None = None
    """"4bit": weights are packed into 4 bits (NF4) by the package bitsandbytes and stay as they are; what is trained is
    an adapter on them (QLoRA), so ``lora.rank`` is needed. Engine "transformers" only."""
    chat_template: Literal["auto", "none"] = "auto"
    """"auto": the tokenizer's own template where it has one. "none": the prompt is plain text."""
    device: str = "auto"
    """"auto" takes an accelerator where there is one; or a torch device such as "cpu" or "cuda:0"."""
    engine: str = "transformers"
    """What writes the turns: "transformers" in this process; "vllm" in this process (in training, on the device that
    trains); "vllm-server", a running ``vllm serve`` at ``url``, and "openai", any OpenAI-compatible server at ``url``
    (both for evaluation only)."""
    max_rows: PositiveInt | None = None
    """Turns written at once (rows of a batch, or requests in flight); not set: the engine's own number (vllm
    and vllm-server 256, openai 16; transformers 64 on a CPU, and on a GPU as many as there is memory for at
    ``max_context``, at most 512)."""
    max_context: Annotated[int, Ge(2)] | None = None
    """Longest context in tokens; not set: what the model's configuration or the server says."""
    engine_args: tuple[str, ...] = ()
    """Further arguments of vLLM's engine as name=value, such as ["tensor_parallel_size=2",
    "gpu_memory_utilization=0.5"]; names and values are vLLM's. For engine "vllm". In training gpu_memory_utilization is
    0.3 unless given here, and enable_sleep_mode is on where there is a GPU."""
    url: str | None = None
    """Address of the server, such as http://127.0.0.1:8000 (with or without /v1)."""
    served_name: str | None = None
    """The model's name at the server; not set: the one whose name or folder is ``path``."""
    tokenizer: Path | str | None = None
    """Engine "openai": folder or hub id of the served model's tokenizer, for its chat template and for counting tokens.
    Without one, tokens are estimated and the server applies its own template."""
    api: Literal["auto", "completions", "chat", "chat-continue"] = "auto"
    """Engine "openai": "completions" sends the context as text; "chat" sends turns and observations as messages;
    "chat-continue" sends the trajectory so far as an assistant message to be continued (a vLLM and SGLang extension).
    "auto": completions where there is a ``tokenizer`` and the server has them, else chat."""
    api_key_env: str | None = None
    """Environment variable with the server's key; not set: VLLM_API_KEY or OPENAI_API_KEY, by engine."""
    timeout_s: PositiveFloat = 600.0
    """Seconds that one turn may take at a server."""
    retries: Count = 5
    """Further attempts after a server could not be reached, was busy or failed."""

    def __post_init__(self) -> None:
        self._check_url()
        if self.quantization is not None and self.engine != "transformers":
            raise ConfigError(
                f'model.quantization "{self.quantization}" is for model.engine "transformers", but the engine is '
                f'"{self.engine}"; leave one of them out'
            )
        if self.quantization is not None and (self.gguf_file is not None or str(self.path).endswith(".gguf")):
            raise ConfigError(
                f'model.quantization "{self.quantization}" cannot be used with a .gguf file, whose weights are '
                "unpacked to full precision; name the model it was made from"
            )
        for name, engines in (("engine_args", ("vllm",)), ("tokenizer", ("openai",)), ("served_name", SERVERS)):
            if getattr(self, name) and self.engine not in engines:
                wanted = " or ".join(f'"{engine}"' for engine in engines)
                raise ConfigError(f'model.{name} is for model.engine {wanted}, but the engine is "{self.engine}"')
        if self.api != "auto" and self.engine != "openai":
            raise ConfigError(f'model.api is for model.engine "openai", but the engine is "{self.engine}"')

    def _check_url(self) -> None:
        if self.engine not in SERVERS:
            if self.url is not None:
                raise ConfigError(
                    f'model.url is for the engines "vllm-server" and "openai", but model.engine is "{self.engine}"; '
                    "set model.engine or leave the url out"
                )
            return
        if self.url is None:
            raise ConfigError(f'model.engine "{self.engine}" needs model.url, such as "http://127.0.0.1:8000"')
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f'model.url must be an http or https address, got "{self.url}"')
        if parts.username or parts.password:
            raise ConfigError("model.url must not hold a key; put it into the environment (model.api_key_env)")


def check_trainable_engine(config: ModelConfig) -> None:
    """Refuse engines that cannot tell which token ids they sampled."""
    if config.engine == "openai":
        raise ConfigError(
            'model.engine "openai" cannot be trained: such a server returns text, and training needs the sampled token '
            'ids and their log-probabilities; use "transformers" (or evaluate with `calibadv eval`)'
        )
    if config.engine not in TRAINABLE and not is_import_path(config.engine):
        raise ConfigError(
            f'model.engine "{config.engine}" is for evaluation; training plays rollouts with the weights it updates:'
            ' use model.engine = "transformers" or "vllm"'
        )


def check_trainable_dtype(config: ModelConfig) -> None:
    """Refuse a type that the device of a training run would not compute in."""
    if config.dtype == "float16" and usable_device(config.device, setting="model.device").partition(":")[0] == "cpu":
        raise ConfigError(
            'model.dtype "float16" cannot be trained on a CPU, which would compute in float32 instead: set model.dtype '
            'to "float32" or "bfloat16", or model.device to an accelerator'
        )
