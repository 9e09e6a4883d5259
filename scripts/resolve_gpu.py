#!/usr/bin/env python3
"""Resolve the GPU environment with pip, installing nothing: does what constraints-gpu.txt names fit together?

    scripts/resolve_gpu.py            resolve calibadv[gpu] with constraints-gpu.txt; exit code 1 when it does not fit
    scripts/resolve_gpu.py --renew    resolve without it, and write it

pip reads the wheels' metadata; where the package index does not offer it alone, that downloads them (4 GB, into pip's
cache). Runs on any Linux machine on x86_64, with or without a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints-gpu.txt"
FOR_NEWER_PYTHON = {"setuptools": "80.10.2", "six": "1.17.0"}
"""What vLLM wants from Python 3.12 on only; pinned for all."""
ONE_BUILD = ("torch", "torchaudio", "torchvision")
"""Packages with builds for the CPU and for several CUDA versions under one version number: `===` admits that of the
package index alone, which is the one that vLLM is built for."""
HEADER = f"""\
# The GPU environment (`make install-gpu`): calibadv[gpu] as pip resolves it for Linux on x86_64, torch with CUDA. vLLM
# is the newest that TRL 1.16 supports (0.22 to 0.31). Written by `scripts/resolve_gpu.py --renew`; without --renew it
# checks that these versions fit together. {" and ".join(FOR_NEWER_PYTHON)} are wanted from Python 3.12 on.
"""


def resolve(*options: str) -> dict[str, str]:
    """Version by package name, of everything that pip would install; SystemExit when it finds nothing that fits."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--only-binary", ":all:", "--report", str(report), *options, f"{ROOT}[gpu]",
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("pip finds no versions that fit together; its reason stands above")
        found = [package["metadata"] for package in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in found if one["name"] != "calibadv"}


def refuse_cpu_builds(versions: Mapping[str, str]) -> None:
    """SystemExit when pip took a build of torch that knows no CUDA."""
    cpu = [f"{name} {version}" for name, version in versions.items() if version.endswith("+cpu")]
    if cpu or "nvidia-nccl-cu13" not in versions:
        raise SystemExit(
            f"pip took {', '.join(cpu) or 'a torch without NCCL'}, a build without CUDA: leave out indexes and folders "
            "of CPU builds (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, and the same in pip's configuration files)"
        )


def as_constraints(versions: Mapping[str, str]) -> str:
    """The text of constraints-gpu.txt.

    >>> print(as_constraints({"torch": "2.13.0", "six": "1.16.0", "numpy": "2.3.5"}).split("3.12 on.")[1].strip())
    numpy==2.3.5
    setuptools==80.10.2
    six==1.17.0
    torch===2.13.0
    """
    pinned = {**versions, **FOR_NEWER_PYTHON}
    lines = [f"{name}{'===' if name in ONE_BUILD else '=='}{pinned[name]}" for name in sorted(pinned)]
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="resolve without constraints-gpu.txt and write it")
    renew = parser.parse_args().renew
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit(f"constraints-gpu.txt is for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    versions = resolve() if renew else resolve("-c", str(CONSTRAINTS))
    refuse_cpu_builds(versions)
    if renew:
        CONSTRAINTS.write_text(as_constraints(versions), encoding="utf-8")
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "vllm", "trl", "transformers"))
    print(f"{len(versions)} packages fit together, among them {shown}")


if __name__ == "__main__":
    main()
