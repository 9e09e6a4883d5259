"""vLLM in the training process, on the device that trains (TRL's ``VLLMGeneration``); no other file knows its inside.

Two things differ from TRL. Its ``generate`` wakes the engine, pushes all weights and puts it to sleep for every *turn*;
here all three happen once a rollout, and the turns are driven by `calibadv.rollout.policies.stepping`. And its way of
pushing weights fails on vLLM for CPUs, which packs them; there they are reloaded layer by layer.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers.core_model_loading import revert_weight_conversion
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from calibadv.errors import CalibAdvError, ConfigError, EngineFailed, first_line
from calibadv.models.lora import is_adapted, iter_merged_weights
from calibadv.rollout.policies.stepping import Key, News, SteppingPolicy
from calibadv.rollout.policies.stop_strings import TurnReader
from calibadv.rollout.policies.vllm import on_cpu, quiet_vllm, read_turn, repack, sampling_params
from calibadv.rollout.policy import Completion, GenerationRequest
from calibadv.rollout.tokenizer import Tokenizer

MakeLLM = Callable[..., Any]
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""TRL sets them for vLLM; left behind, a later run in this process or below it would take itself for one of many."""
MEMORY_REMEDY = (
    'it shares the device with training: set "gpu_memory_utilization=..." in model.engine_args (lower when memory is '
    "missing, higher when there is no room for the cache), or lower model.max_context or model.max_rows"
)


class ColocatedGeneration(VLLMGeneration):
    """TRL's vLLM, told when the weights change; pushes them when the engine is next needed.

    ``engine_args`` are further arguments of ``vllm.LLM``; ``make_llm`` takes its place.
    """

    def __init__(
        self,
        *args: Any,
        engine_args: Mapping[str, Any] | None = None,
        make_llm: MakeLLM | None = None,
        **kwargs: Any,
    ) -> None:
        self.engine_args = dict(engine_args or {})
        self.num_syncs = 0
        """Times that the weights were pushed."""
        self._counted = 0
        self.num_wakes = 0
        """Times that the engine was made ready to write."""
        self.lap: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
        """Times what happens here, under a name."""
        self._make_llm = make_llm
        self._is_current = False
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        quiet_vllm()
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # training's threads would be bound too
        theirs = vllm_generation.LLM
        vllm_generation.LLM = functools.partial(start_llm, self._make_llm or theirs, self.engine_args)
        before = {name: os.environ.get(name) for name in LAUNCHER_VARIABLES}
        if self.accelerator.num_processes == 1:
            os.environ.pop(
                "MASTER_PORT", None
            )  # accelerate's is the same for every run of a machine; TRL finds a free one
        try:
            super()._init_vllm()  # type: ignore[no-untyped-call]  # TRL leaves it unannotated
        finally:
            vllm_generation.LLM = theirs
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def weights_changed(self) -> None:
        """The engine's are no longer those being trained."""
        self._is_current = False

    def sync_weights(self) -> None:
        """Push the weights, unless the engine has them: TRL calls this before every batch. A collective."""
        if self._is_current:
            return
        try:
            with self.lap("sync"):
                if on_cpu():
                    self._reload()
                else:
                    super().sync_weights()  # type: ignore[no-untyped-call]  # TRL leaves it unannotated
        except Exception as error:  # vLLM's loaders raise whatever they meet
            raise EngineFailed(
                f"vLLM cannot take over the weights being trained ({first_line(error)}); it may not know this kind of "
                'model: train with model.engine = "transformers"'
            ) from error
        self._is_current = True
        self.num_syncs += 1

    def count_syncs(self) -> int:
        """Times that the weights were pushed since the last call."""
        count, self._counted = self.num_syncs - self._counted, self.num_syncs
        return count

    def wake(self) -> None:
        """Make ready for turns with the weights as they are."""
        self.sync_weights()
        if self.enable_sleep_mode:
            try:
                self.llm.wake_up(tags=["kv_cache"])
            except Exception as error:  # torch's and vLLM's own
                raise EngineFailed(f"vLLM cannot wake up ({first_line(error)}); {MEMORY_REMEDY}") from error
        self.num_wakes += 1

    def sleep(self) -> None:
        """Give the memory of weights and cache back to training."""
        if self.enable_sleep_mode:
            self.llm.sleep(level=2)  # drops the weights; the next call pushes them again
            self._llm_weights_sleeping = True
            self._is_current = False

    def close(self) -> None:
        """End the engine and free its memory."""
        core = self.llm.llm_engine.engine_core
        if self.accelerator.num_processes == 1:
            core.shutdown()
        elif (finalizer := getattr(core, "_finalizer", None)) is not None:
            finalizer.detach()  # it would destroy the process group, which is training's; the process ends soon

    def _reload(self) -> None:
        if self.enable_sleep_mode:
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=self._iter_named_params(), is_checkpoint_format=True)
        repack(runner.get_model())
        self.llm.reset_prefix_cache()

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        """TRL's, under the names of a checkpoint: transformers holds the experts of a mixture as one tensor."""
        model: Any = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if is_adapted(model) else model
        for name, value in self._weights(model):
            yield from revert_weight_conversion(base, {name: value}).items()

    def _weights(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """TRL's, but an adapter that is whole in this process is not merged into the model and taken out again.

        That would round the model's weights at every batch, and leave them merged if vLLM failed meanwhile.
        """
        if not is_adapted(model) or self._dist.is_fsdp or self.accelerator.state.deepspeed_plugin is not None:
            yield from super()._iter_named_params()  # type: ignore[no-untyped-call]  # TRL leaves it unannotated
            return
        yield from iter_merged_weights(model.get_base_model(), parameters_only=True)


class ColocatedEngine:
    """`SteppingEngine` over `ColocatedGeneration`."""

    def __init__(self, generation: ColocatedGeneration, tokenizer: Tokenizer, *, eos_ids: Collection[int] = ()) -> None:
        self._generation = generation
        self._engine = generation.llm.llm_engine
        self._reader = TurnReader(tokenizer, eos_ids={*tokenizer.eos_ids, *eos_ids})
        self._numbers = itertools.count()
        self._names: dict[Key, str] = {}
        self._running: dict[str, tuple[Key, GenerationRequest]] = {}
        self.max_context = int(self._engine.model_config.max_model_len)
        self.max_rows = int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    def wake(self) -> None:
        self._generation.wake()

    def sleep(self) -> None:
        self._generation.sleep()

    def add(self, key: Key, request: GenerationRequest) -> None:
        from vllm.inputs import tokens_input

        name = self._names[key] = f"{key[0]}-{key[1]}-{next(self._numbers)}"
        self._running[name] = key, request
        params = sampling_params(request, eos_ids=self._reader.eos_ids)
        self._engine.add_request(name, tokens_input(list(request.token_ids)), params)

    def abort(self, keys: Sequence[Key]) -> None:
        names = [self._names.pop(key) for key in keys]
        for name in names:
            del self._running[name]
        self._engine.abort_request(names)

    def step(self) -> list[tuple[Key, Completion]]:
        try:
            # Training's mixed precision is not the engine's.
            with torch.autocast(self._generation.accelerator.device.type, enabled=False):
                outputs = self._engine.step()
        except Exception as error:  # vLLM's own errors, and whatever its kernels met
            raise EngineFailed(f"vLLM failed while writing ({first_line(error)}); {MEMORY_REMEDY}") from error
        return [self._finished(output) for output in outputs if output.finished and output.request_id in self._running]

    def _finished(self, output: Any) -> tuple[Key, Completion]:
        key, request = self._running.pop(output.request_id)
        del self._names[key]
        return key, read_turn(self._reader, request, output.outputs[0])


@contextmanager
def colocated(engine_args: Mapping[str, Any], *, make_llm: MakeLLM | None = None) -> Iterator[None]:
    """Inside, TRL's trainer makes a `ColocatedGeneration`."""
    trainer_module: Any = grpo_trainer
    theirs = trainer_module.VLLMGeneration
    trainer_module.VLLMGeneration = functools.partial(ColocatedGeneration, engine_args=engine_args, make_llm=make_llm)
    try:
        yield
    finally:
        trainer_module.VLLMGeneration = theirs


def colocated_policy(
    generation: ColocatedGeneration, tokenizer: Tokenizer, *, eos_ids: Collection[int]
) -> SteppingPolicy:
    """The policy that writes with the trainer's vLLM.

    With tensor parallelism the processes of a group step together.
    """
    engine = ColocatedEngine(generation, tokenizer, eos_ids=eos_ids)
    size = generation.tensor_parallel_size
    if size == 1:
        return SteppingPolicy(engine)
    group = generation.tp_group
    rank = torch.distributed.get_rank(group=group)

    def exchange(news: News) -> list[News]:
        everyone: list[Any] = [None] * size
        torch.distributed.all_gather_object(everyone, news, group=group)
        return everyone

    return SteppingPolicy(engine, exchange=exchange, rank=rank, num_processes=size)


def start_llm(make_llm: MakeLLM, engine_args: Mapping[str, Any], **arguments: Any) -> Any:
    """``vllm.LLM`` with TRL's arguments and ours; errors as one line."""
    if on_cpu():
        arguments |= whole_prompts(arguments["max_model_len"])
    arguments |= engine_args
    try:
        return make_llm(**arguments)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ConfigError(f"model.engine_args: vLLM does not know such an argument ({first_line(error)})") from error
    except CalibAdvError:
        raise
    except Exception as error:
        text = first_line(error)
        if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error).lower() or "KV cache" in str(error):
            raise ConfigError(f"vLLM cannot start beside the model being trained ({text}); {MEMORY_REMEDY}") from error
        raise ConfigError(
            f"vLLM cannot start with model {arguments['model']} ({text}); its log above says more. Check model.path, "
            "model.dtype, model.max_context and model.engine_args"
        ) from error


def whole_prompts(max_context: int | None) -> dict[str, Any]:
    """Arguments without which vLLM on a CPU dies.

    It rewinds a request's random state after each piece of its prompt but the last, which generators on a CPU cannot
    do: so prompts are read whole.
    """
    budget = None if max_context is None else max(4096, max_context)
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": budget}
