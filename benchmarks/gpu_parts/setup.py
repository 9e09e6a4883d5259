"""What the parts share: the device, models of random weights, and turns that are fixed beforehand."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calibadv.lab import load_policy
from calibadv.models.load import ModelConfig, load_tokenizer
from calibadv.models.lora import LoraConfig
from calibadv.models.published import published_architecture
from calibadv.models.sizes import ModelShape, shape_of
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.trajectory import Document, Question

TINY = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2_000, "max_position_embeddings": 8_192,
    "tie_word_embeddings": True,
}  # fmt: skip
MODELS = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where and how large."""

    device: str
    tiny: bool
    """Small enough for a CPU: the figures mean nothing, but everything runs."""
    folder: Path
    """For files of a part; it is removed afterwards."""

    @property
    def models(self) -> tuple[str, ...]:
        return ("tiny",) if self.tiny else MODELS

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def free(self) -> int:
        """Bytes free on the device."""
        return int(torch.cuda.mem_get_info()[0]) if self.on_gpu else 4 << 30

    def reset_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Bytes held at most since `reset_peak`; None where nobody counts."""
        return int(torch.cuda.max_memory_allocated()) if self.on_gpu else None

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], *, repeats: int = 3) -> float:
        """The shortest of some runs, after one that warms up."""
        work()
        found = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)


def say(text: str) -> None:
    """A line for whoever waits; results go elsewhere."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def hf_config(name: str) -> Any:
    """The configuration of a model by its published architecture."""
    from transformers import AutoConfig

    architecture = TINY if name == "tiny" else published_architecture(name)
    assert architecture is not None
    return AutoConfig.for_model(**architecture)


def shape(name: str) -> ModelShape:
    return shape_of(hf_config(name), lora=LoraConfig())


def make_model(name: str, *, dtype: torch.dtype, device: str) -> Any:
    """A model of random weights, made on the device itself."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    with torch.device(device):
        return auto.from_config(hf_config(name), dtype=dtype).eval()


def tokenizer() -> Any:
    """The lab's: it needs no network, and its ids are ids of every model here."""
    return load_tokenizer(ModelConfig(path=str(load_policy())))


def questions(count: int) -> list[Question]:
    return [
        Question(id=f"q{i}", text=f"what is the birthyear of the founder of town {i}?", golden_answers=("1930",))
        for i in range(count)
    ]


def documents(*, tokens: int) -> ListRetriever:
    """Three documents for every query, each of about so many tokens of the lab's tokenizer."""
    words = ("founder", "of", "this", "town", "birthplace", "employer", "birthyear")
    text = " ".join(words[i % len(words)] for i in range(tokens))
    return ListRetriever([Document(id=str(i), title=f"town {i}", text=text) for i in range(3)])


def written_turns(*, episodes: int, turn_tokens: int) -> list[list[str]]:
    """Texts of all turns: one to four searches and an answer, lengths log-normal around ``turn_tokens``, at most three
    times that."""
    rng = random.Random(0)
    texts = []
    for episode in range(episodes):
        tails = [f"</think><search>founder of town {rng.randrange(50)}</search>" for _ in range(rng.randint(1, 4))]
        lengths = [turn_tokens * min(3.0, rng.lognormvariate(0, 0.6)) for _ in range(len(tails) + 1)]
        tails.append(f"</think><answer>{episode}</answer>")
        thoughts = ["the town is " * max(1, round(length / 3 - 3)) for length in lengths]
        texts.append([thought + tail for thought, tail in zip(thoughts, tails, strict=True)])
    return texts
