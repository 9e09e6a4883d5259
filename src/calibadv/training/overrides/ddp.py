"""How weights are wrapped for several processes (one override of the Trainer).

DDP keeps gradients a second time, in the buckets that it sends (4 bytes a parameter). Here gradients are views of the
buckets.
"""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class GradientsInBuckets(Trainer):
    """Override: ``_build_accelerator_args`` with ``gradient_as_bucket_view``, for which the Trainer has no setting."""

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        args = super()._build_accelerator_args(**kwargs)
        (ddp,) = args["kwargs_handlers"]
        ddp.gradient_as_bucket_view = True
        return args
