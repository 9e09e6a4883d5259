"""What the GPU itself does: bfloat16 products, copies inside its memory and from the host, launches of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu_parts.setup import Setup


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    size = 256 if setup.tiny else 8_192
    a, b = (torch.randn(size, size, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = setup.seconds(lambda: a @ b)
    yield {"what": f"bfloat16 product of {size} x {size}", "value": 2 * size**3 / seconds / 1e12, "unit": "TFLOP/s"}
    elements = 1 << (20 if setup.tiny else 30)
    source = torch.zeros(elements, device=setup.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = setup.seconds(lambda: target.copy_(source))
    yield {"what": "copy in memory, read and written", "value": 2 * elements / seconds / 1e9, "unit": "GB/s"}
    if setup.on_gpu:
        host = torch.zeros(elements // 4, dtype=torch.uint8).pin_memory()
        part = target[: elements // 4]
        seconds = setup.seconds(lambda: part.copy_(host, non_blocking=True))
        yield {"what": "copy from the host", "value": len(host) / seconds / 1e9, "unit": "GB/s"}
    one = torch.zeros(1, device=setup.device)

    def launches() -> None:
        for _ in range(1_000):
            one.add_(1)

    yield {"what": "launch of a small kernel", "value": setup.seconds(launches) * 1e3, "unit": "microseconds"}
