"""constraints-gpu.txt: what `make install-gpu` installs fits pyproject.toml and TRL's check of vLLM's version."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, Version]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    pairs = (re.split("={2,3}", line) for line in lines if line)
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def requirements(extra: str | None) -> Iterator[Requirement]:
    """What an extra of calibadv asks for, with the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "calibadv":
            for inner in requirement.extras:
                yield from requirements(inner)
        else:
            yield requirement


@pytest.fixture(scope="module")
def resolve_gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resolve_gpu", ROOT / "scripts" / "resolve_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_of_the_gpu_environment_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = pins("constraints-gpu.txt")
    wanted = [*requirements(None), *requirements("gpu")]
    assert len(wanted) > 20
    assert not [str(r) for r in wanted if canonicalize_name(r.name) not in pinned]
    assert not [str(r) for r in wanted if not r.specifier.contains(pinned[canonicalize_name(r.name)])]


def test_vllm_is_a_version_that_the_pinned_trl_supports() -> None:
    import_utils = pytest.importorskip("trl.import_utils")
    oldest, newest = map(
        Version, re.findall(r'Version\("([\d.]+)"\)', inspect.getsource(import_utils.is_vllm_available))
    )
    assert oldest <= pins("constraints-gpu.txt")["vllm"] <= newest
    (vllm,) = (requirement for requirement in requirements("gpu") if requirement.name == "vllm")
    assert vllm.specifier.contains(oldest)
    assert vllm.specifier.contains(newest)
    assert not vllm.specifier.contains(Version("99"))


@pytest.mark.parametrize("package", ["accelerate", "peft", "torch", "trl"])
def test_what_the_trainer_stands_on_has_the_version_that_the_tests_run_with(package: str) -> None:
    assert pins("constraints-gpu.txt")[package] == pins("constraints.txt")[package]


def test_a_build_of_torch_without_cuda_is_refused_with_the_remedy(resolve_gpu: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"pip took torch 2\.13\.0\+cpu, a build without CUDA: .*PIP_FIND_LINKS"):
        resolve_gpu.refuse_cpu_builds({"torch": "2.13.0+cpu", "nvidia-nccl-cu13": "2.29.7"})
    with pytest.raises(SystemExit, match="a torch without NCCL"):
        resolve_gpu.refuse_cpu_builds({"torch": "2.13.0"})
    resolve_gpu.refuse_cpu_builds({"torch": "2.13.0", "nvidia-nccl-cu13": "2.29.7"})


def test_the_file_is_what_the_script_writes(resolve_gpu: ModuleType) -> None:
    text = (ROOT / "constraints-gpu.txt").read_text(encoding="utf-8")
    assert (
        resolve_gpu.as_constraints({name: str(version) for name, version in pins("constraints-gpu.txt").items()})
        == text
    )


def test_what_the_image_is_made_from_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {"src", "configs", "constraints-gpu.txt"} <= names
    assert all((ROOT / name).exists() for name in names)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert kept == names


@pytest.mark.network
@pytest.mark.timeout(1800)
def test_pip_resolves_the_gpu_environment() -> None:
    """Without the places where this machine may keep builds for the CPU."""
    environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    environment["PIP_CONFIG_FILE"] = os.devnull
    script = ROOT / "scripts" / "resolve_gpu.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ packages fit together, among them torch \S+, vllm \S+, trl 1\.16\.", done.stdout)
