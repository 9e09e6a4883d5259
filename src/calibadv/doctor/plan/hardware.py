"""GPUs as their data sheets describe them, and clusters of them.

Peaks are those without sparsity. ``link`` is what one GPU sends to its neighbours in a machine, one way: half of the
figure that is advertised for NVLink, and PCIe where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU."""

    name: str
    """As the driver calls it, or a part of that."""
    memory: float
    """Bytes."""
    flops: float
    """Operations a second in bfloat16."""
    bandwidth: float
    """Bytes a second of its memory."""
    link: float
    """Bytes a second to another GPU of the same machine."""


def _gpu(name: str, gib: float, teraflops: float, terabytes: float, link: float) -> Gpu:
    return Gpu(name=name, memory=gib * 2**30, flops=teraflops * 1e12, bandwidth=terabytes * 1e12, link=link * 1e9)


GPUS: dict[str, Gpu] = {
    "h100": _gpu("H100", 79.6, 989, 3.35, 450),
    "h100-pcie": _gpu("H100 PCIe", 79.6, 756, 2.0, 64),
    "h100-nvl": _gpu("H100 NVL", 93.6, 835, 3.9, 300),
    "h200": _gpu("H200", 139.8, 989, 4.8, 450),
    "h800": _gpu("H800", 79.6, 989, 3.35, 200),
    "h20": _gpu("H20", 95.6, 148, 4.0, 450),
    "gh200": _gpu("GH200", 94.5, 989, 4.0, 450),
    "b200": _gpu("B200", 178.0, 2250, 8.0, 900),
    "a100": _gpu("A100-SXM4-80GB", 79.2, 312, 2.04, 300),
    "a100-40gb": _gpu("A100-SXM4-40GB", 39.4, 312, 1.56, 300),
    "a100-pcie": _gpu("A100 80GB PCIe", 79.2, 312, 1.94, 32),
    "a800": _gpu("A800", 79.2, 312, 2.04, 200),
    "l40s": _gpu("L40S", 44.4, 362, 0.864, 32),
    "a6000": _gpu("RTX A6000", 47.4, 155, 0.768, 32),
    "a10g": _gpu("A10G", 22.1, 125, 0.6, 32),
    "l4": _gpu("L4", 22.0, 121, 0.3, 32),
    "rtx4090": _gpu("RTX 4090", 23.5, 165, 1.01, 32),
    "rtx3090": _gpu("RTX 3090", 23.6, 71, 0.936, 32),
    "mi300x": _gpu("MI300X", 191.5, 1307, 5.3, 64),
}
"""By the word for ``--gpu``. Memory is what torch sees (error correction and the driver take some of the nominal)."""


def find_gpu(name: str) -> Gpu:
    """The GPU of that word (`GPUS`), or whose driver calls it so.

    >>> find_gpu("H100").bandwidth, find_gpu("NVIDIA H100 80GB HBM3").name
    (3350000000000.0, 'H100')
    """
    word = name.strip().lower()
    if word in GPUS:
        return GPUS[word]
    called = set(word.replace("-", " ").split())
    found = [gpu for gpu in GPUS.values() if set(gpu.name.lower().replace("-", " ").split()) <= called]
    if found:
        return max(found, key=lambda gpu: len(gpu.name))
    raise ConfigError(
        f"--gpu {name}: no such GPU in the table; take one of {', '.join(GPUS)} (the nearest), or measure yours with "
        "benchmarks/gpu.py and give --measured"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Machines of one kind."""

    gpu: Gpu
    gpus: int
    """In each machine."""
    nodes: int = 1

    @property
    def size(self) -> int:
        """All GPUs."""
        return self.gpus * self.nodes
