"""Whole tensors from sharded ones (FSDP2's DTensors) and back, for files that do not depend on the processes.

Gathering is a collective, tensor by tensor: no device ever holds more than one whole tensor beside its shares. Of all
processes the one that is to ``keep`` them gets the tensors, in its host memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor, distribute_tensor

from calibadv.models.lora import is_adapted, iter_merged_weights


def whole(tensor: torch.Tensor, *, keep: bool) -> torch.Tensor:
    """The whole tensor; an empty one in processes that need not keep it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if keep else torch.empty(0)


def is_sharded(model: Any) -> bool:
    """Whether each process holds a share of the weights only."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_policy(model: Any, *, keep: bool) -> dict[str, torch.Tensor] | None:
    """The weights to publish, an adapter merged into them; None when the model holds them itself."""
    if not is_sharded(model):
        return None
    if not is_adapted(model):
        return whole_weights(model, keep=keep)
    base = model.get_base_model()
    parameters = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    buffers = ((name, value) for name, value in base.state_dict().items() if name not in parameters)
    return whole_tensors(chain(iter_merged_weights(base, parameters_only=True), buffers), keep=keep)


def whole_weights(model: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """The state of a model; of one with an adapter, the adapter's. A shared weight stays shared."""
    shared = dict(model.named_parameters(remove_duplicate=False))
    adapter = is_adapted(model)
    state = ((name, shared.get(name, value)) for name, value in model.state_dict().items())
    return whole_tensors(((name, value) for name, value in state if not adapter or ".lora_" in name), keep=keep)


def whole_tensors(named: Iterable[tuple[str, torch.Tensor]], *, keep: bool) -> dict[str, torch.Tensor]:
    """`whole` for named tensors; what is one tensor under two names is gathered once."""
    gathered: dict[int, torch.Tensor] = {}
    sources = []  # kept alive, so that their ids stay theirs
    result = {}
    for name, tensor in named:
        sources.append(tensor)
        if id(tensor) not in gathered:
            gathered[id(tensor)] = whole(tensor, keep=keep)
        result[name] = gathered[id(tensor)]
    return result


def whole_optimizer(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """An optimizer's state as an unsharded run has it."""
    state = optimizer.state_dict()
    entries = {
        number: {
            name: whole(value, keep=keep) if isinstance(value, torch.Tensor) else value for name, value in its.items()
        }
        for number, its in state["state"].items()
    }
    return {**state, "state": entries}


def share_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor that every process has."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def take_shares(targets: Mapping[str, torch.Tensor], files: Iterable[Path]) -> list[str]:
    """Fill the named tensors from safetensors files; the names that no file has come back."""
    with torch.no_grad(), opened(files) as stored:
        for name, target in targets.items():
            if name in stored:
                target.copy_(share_of(stored[name].get_tensor(name).to(target.dtype), target))
        return [name for name in targets if name not in stored]


@contextmanager
def opened(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Name -> the open file that holds the tensor; read when asked for."""
    with ExitStack() as stack:
        handles = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        yield {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118  # not a dict


def shares_of_optimizer(state: dict[str, Any], parameters: list[torch.Tensor]) -> dict[str, Any]:
    """An unsharded run's optimizer state, each value cut as its parameter is."""
    entries = {
        number: {
            name: share_of(value, parameters[number]) if isinstance(value, torch.Tensor) and value.dim() else value
            for name, value in its.items()
        }
        for number, its in state["state"].items()
    }
    return {**state, "state": entries}
