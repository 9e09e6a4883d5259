"""``python fsdp_on_cpu.py train ...``: the command line, in processes that shard weights over gloo; and an engine.

accelerate shards on accelerators only. FSDP2 itself does not mind, so here accelerate is told that it may.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState
from transformers import AutoModelForCausalLM

from calibadv.cli.main import main
from calibadv.models.lora import is_adapted, merged_weights
from calibadv.models.whole import whole_policy
from calibadv.rollout.policies.transformers import TransformersPolicy
from calibadv.rollout.policy import Completion, RequestQueue


class GatheringPolicy:
    """Plays with a whole copy of the weights, gathered when a rollout begins (all processes begin together)."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        empty: Any = AutoModelForCausalLM
        self.copy = empty.from_config(model.config).eval()
        self.policy = TransformersPolicy(self.copy, tokenizer, max_rows=64)

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        weights = whole_policy(self.model, keep=True)
        if weights is None:
            weights = merged_weights(self.model.get_base_model()) if is_adapted(self.model) else self.model.state_dict()
        missing = self.copy.load_state_dict(weights, strict=False).missing_keys  # a shared weight may be there once
        assert set(missing) <= {"lm_head.weight"}, missing
        return self.policy.generate(requests)


def gathering(config: Any, *, tokenizer: Any, model: Any) -> GatheringPolicy:
    return GatheringPolicy(model, tokenizer)


def shard_on_cpus() -> None:
    """From now on accelerate takes FSDP from the environment although there is no accelerator."""
    start = AcceleratorState.__init__

    def started(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)

    AcceleratorState.__init__ = started


if __name__ == "__main__":
    shard_on_cpus()
    sys.exit(main(sys.argv[1:]))
