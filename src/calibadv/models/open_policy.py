"""`open_policy`: from the [model] section to something that writes turns, with the tokenizer that belongs to it."""

from __future__ import annotations

import logging
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

from calibadv.devices import without_progress_bars
from calibadv.errors import ConfigError
from calibadv.io.retry import Retry
from calibadv.models.config import API_KEY_ENV, ModelConfig
from calibadv.models.engine import Engine, open_engine
from calibadv.models.load import (
    ModelSource,
    load_model,
    load_policy,
    load_tokenizer,
    local_folder,
    resolve_model,
)
from calibadv.registry import is_import_path
from calibadv.rollout.policies.async_policy import AsynchronousPolicy
from calibadv.rollout.policy import Policy
from calibadv.rollout.tokenizer import HFTokenizer, Tokenizer, eos_ids_of
from calibadv.rollout.tokenizer_checks import check_tokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class OpenedPolicy:
    """A policy that is ready to write; a context manager that closes it."""

    policy: Policy
    tokenizer: Tokenizer
    _stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """End its processes, connections and temporary files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_policy(
    config: ModelConfig, *, threads: int | None = None, engine: Engine | Policy | None = None
) -> OpenedPolicy:
    """The policy of ``config.engine`` with its tokenizer; ``threads`` limits torch's CPU threads (transformers only).

    ``engine`` takes the place of ``config.engine``. Use it as ``with open_policy(config.model) as opened:``.
    """
    with ExitStack() as stack:
        if engine is None and not is_import_path(config.engine):
            policy, tokenizer = _open(config, threads=threads, stack=stack)
        else:
            tokenizer = _checked(HFTokenizer(load_tokenizer(config)), config)
            policy = open_engine(engine or config.engine, config, tokenizer=tokenizer, model=None)
        if isinstance(policy, AsynchronousPolicy):
            stack.callback(policy.close)
        return OpenedPolicy(policy=policy, tokenizer=tokenizer, _stack=stack.pop_all())


def _open(config: ModelConfig, *, threads: int | None, stack: ExitStack) -> tuple[Policy, Tokenizer]:
    if config.engine == "openai":
        return _open_openai(config)
    if config.engine == "transformers":
        policy, inner = load_policy(config, threads=threads)
        return policy, _checked(HFTokenizer(inner), config)
    tokenizer = _checked(HFTokenizer(load_tokenizer(config)), config)
    source = resolve_model(config)
    eos_ids = _eos_ids(source)
    if config.engine == "vllm":
        from calibadv.rollout.policies.vllm import DEFAULT_ROWS, VllmPolicy, require_vllm

        require_vllm()
        return VllmPolicy(
            stack.enter_context(plain_folder(config, source)),
            tokenizer,
            dtype=config.dtype,
            max_rows=config.max_rows or DEFAULT_ROWS,
            max_context=config.max_context,
            eos_ids=eos_ids,
            engine_args=read_engine_args(config.engine_args),
        ), tokenizer
    from calibadv.rollout.policies.vllm_server import DEFAULT_ROWS as SERVER_ROWS
    from calibadv.rollout.policies.vllm_server import VllmServerPolicy

    assert config.url is not None
    return VllmServerPolicy(
        config.url,
        tokenizer,
        model=source.name if source.is_local and not source.gguf_file else str(config.path),
        served_name=config.served_name,
        max_rows=config.max_rows or SERVER_ROWS,
        max_context=config.max_context,
        eos_ids=eos_ids,
        key=read_key(config),
        timeout_s=config.timeout_s,
        retry=Retry(retries=config.retries),
    ), tokenizer


def _open_openai(config: ModelConfig) -> tuple[Policy, Tokenizer]:
    from calibadv.rollout.policies.openai import DEFAULT_ROWS, OpenAIPolicy
    from calibadv.rollout.policies.text_tokenizer import TextTokenizer

    inner: Tokenizer | None = None
    if config.tokenizer is not None:
        named = replace(config, engine="transformers", path=config.tokenizer, url=None, tokenizer=None, api="auto",
                        served_name=None)  # fmt: skip
        inner = _checked(HFTokenizer(load_tokenizer(named)), named)
    assert config.url is not None
    policy = OpenAIPolicy(
        config.url,
        model=config.served_name or str(config.path),
        tokenizer=TextTokenizer(inner),
        api=config.api,
        max_rows=config.max_rows or DEFAULT_ROWS,
        max_context=config.max_context,
        key=read_key(config),
        timeout_s=config.timeout_s,
        retry=Retry(retries=config.retries),
    )
    return policy, policy.tokenizer


def read_key(config: ModelConfig) -> str | None:
    """The server's key from the environment; it never leaves this process but in a header."""
    name = config.api_key_env or API_KEY_ENV[config.engine]
    key = os.environ.get(name) or None
    if key is None and config.api_key_env is not None:
        raise ConfigError(f"model.api_key_env {name}: the environment has no such variable, or an empty one")
    if key is not None:
        if not key.isascii() or not key.isprintable():  # the HTTP client would repeat it in its error
            raise ConfigError(f"{name} must be printable ASCII, for it is sent in a header; look for a line break")
        parts = urlsplit(config.url or "")
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            logger.warning("The key in %s goes to %s over http, unencrypted; use https", name, parts.hostname)
    return key


def read_engine_args(arguments: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` pairs; values are read as TOML, what is not TOML as text.

    >>> read_engine_args(("tensor_parallel_size=2", "enforce_eager=true", "load_format=dummy"))
    {'tensor_parallel_size': 2, 'enforce_eager': True, 'load_format': 'dummy'}
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(
                f'model.engine_args must hold name=value, such as "tensor_parallel_size=2", got "{argument}"'
            )
        try:
            values[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = text
    return values


@contextmanager
def plain_folder(config: ModelConfig, source: ModelSource) -> Iterator[str]:
    """A Hugging Face folder or hub id; GGUF files and adapters are turned into a temporary one."""
    if source.gguf_file is None and source.adapter is None:
        yield source.name
        return
    with tempfile.TemporaryDirectory(prefix="calibadv-model-") as folder:
        logger.info("Writing %s as a plain model folder for vLLM", config.path)
        model, tokenizer = load_model(replace(config, device="cpu"))
        with without_progress_bars():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        del model
        yield folder


def _eos_ids(source: ModelSource) -> set[int]:
    """End tokens of the model's generation config, where it has one."""
    from transformers import GenerationConfig

    folder = local_folder(source, weights=False)
    if not (folder / "generation_config.json").is_file():
        return set()
    return eos_ids_of(GenerationConfig.from_pretrained(folder))


def _checked(tokenizer: Tokenizer, config: ModelConfig) -> Tokenizer:
    check_tokenizer(tokenizer, name=str(config.path))
    return tokenizer
