"""Checkpoints and precision of sharded weights (overrides of the Trainer, for FSDP2).

The Trainer writes FSDP's weights a second time, in a form that only FSDP reads. Here a checkpoint is that of an
unsharded run, whole weights and whole moments: any number of processes, sharded or not, continues from it. Every
process reads its share from the files, so all need to see the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from calibadv.errors import DataError
from calibadv.models.lora import is_adapted
from calibadv.models.whole import shares_of_optimizer, take_shares, whole_optimizer, whole_weights

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"


class WholeCheckpoints(Trainer):
    """Overrides: what the Trainer saves and loads under FSDP2, and in what precision FSDP2 computes."""

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's own; gradients are added up and outputs returned in float32 (accelerate: in half precision)."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and self.accelerator.mixed_precision in ("bf16", "fp16"):
            from torch.distributed.fsdp import MixedPrecisionPolicy

            dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float16
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=torch.float32
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole weights, or the whole adapter; a collective under FSDP2."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = whole_weights(self.model, keep=self.args.should_save)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        moments = whole_optimizer(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            assert self.lr_scheduler is not None
            torch.save(moments, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        model = self.model if model is None else model
        if is_adapted(model):
            from peft import get_peft_model_state_dict

            targets = get_peft_model_state_dict(model)
        else:
            targets = dict(model.named_parameters())
        files = sorted(Path(resume_from_checkpoint).glob("*.safetensors"))
        missing = take_shares({name: tensor.detach() for name, tensor in targets.items()}, files)
        if missing:
            raise DataError(f"{resume_from_checkpoint} holds no {missing[0]}: it is no checkpoint of this model")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer: Any = self.optimizer
        moments = torch.load(Path(checkpoint) / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.load_state_dict(shares_of_optimizer(moments, parameters))
        assert self.lr_scheduler is not None
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))
