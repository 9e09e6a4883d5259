"""AdamW's moments spread over the processes (ZeRO stage 1); weights and gradients stay whole in each.

Rollouts need the whole weights in every process, so nothing more is sharded. A checkpoint holds the moments of all
processes, as an unsharded run writes them: either kind of run resumes from it.
"""

from __future__ import annotations

import warnings
from typing import Any

from transformers import Trainer


def in_shares(groups: list[dict[str, Any]], *, kind: type[Any], options: dict[str, Any]) -> Any:
    """An optimizer of this kind whose state is spread over the processes."""
    with warnings.catch_warnings():
        # torch's package of distributed optimizers compiles others with what torch has deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit.*is deprecated", category=DeprecationWarning)
        from torch.distributed.optim import ZeroRedundancyOptimizer

    class Shares(ZeroRedundancyOptimizer):
        """Its state may be read, and put back, while it is still empty: accelerate does."""

        collected = False

        def state_dict(self) -> dict[str, Any]:
            """What `consolidate_state_dict` collected in this process."""
            return super().state_dict() if self.collected else {"state": {}, "param_groups": []}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Take this process's share of a whole state."""
            if state_dict["param_groups"]:
                super().load_state_dict(state_dict)

        def consolidate_state_dict(self, to: int = 0) -> None:
            """Send all shares to one process; all processes must call it."""
            super().consolidate_state_dict(to)
            self.collected = True

    return Shares(groups, optimizer_class=kind, **options)


class ShardedOptimizer(Trainer):
    """Override: ``create_optimizer`` and, before saving, collecting what the processes hold."""

    shard_optimizer: bool = False

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's own optimizer, or the same kind in shares."""
        whole = super().create_optimizer(model)
        if not self.shard_optimizer or self.accelerator.num_processes == 1:
            return whole
        kind, options = self.get_optimizer_cls_and_kwargs(self.args)
        groups = [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in whole.param_groups
            if group["params"]
        ]
        self.optimizer = in_shares(groups, kind=kind, options=options)
        return self.optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        inner: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if hasattr(inner, "consolidate_state_dict"):
            inner.consolidate_state_dict(to=0)
        super()._save_optimizer_and_scheduler(output_dir)
