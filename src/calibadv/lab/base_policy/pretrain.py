"""Train the lab's base policy from scratch: a small Llama that searches, reads and answers, on one core.

Two stages. *Reading*: drills (copy this field of this document) and clean demonstrations about worlds that are made on
the fly and discarded, so that nothing can be memorised. *Mistakes*: the same agent, now careless, so that RL has
something to learn. Loss on the tokens that the model writes only.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from calibadv.io.files import write_json
from calibadv.io.provenance import file_sha256
from calibadv.lab.base_policy.demonstrations import Agent, Demonstration, Habits, reading_drill
from calibadv.lab.base_policy.initialise import ROPE_THETA, initialise
from calibadv.lab.base_policy.presets import CLEAN, PretrainConfig
from calibadv.lab.base_policy.tokenizer import make_tokenizer, vocabulary
from calibadv.lab.questions import draw_puzzle
from calibadv.lab.world import LabWorld
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.trajectory import Document

logger = logging.getLogger(__name__)

FIRST_PRETRAINING_WORLD = 10_000_000
"""Worlds from this seed on are pretraining's; the lab's own worlds have smaller seeds, so the policy never saw them."""
_SORTED_AT_ONCE = 256
"""Samples whose lengths are sorted together before they are cut into batches."""


class _Samples:
    """An endless stream of demonstrations about ever new worlds."""

    def __init__(self, config: PretrainConfig, *, rng: random.Random) -> None:
        self.config, self.rng = config, rng
        self._next_world, self._left = FIRST_PRETRAINING_WORLD, 0
        self.habits = CLEAN

    def change_habits(self, habits: Habits) -> None:
        """From the next sample on the agent behaves like this, in a new world."""
        self.habits, self._left = habits, 0

    def demonstration(self) -> Demonstration:
        if self._left == 0:
            self._enter_world()
        self._left -= 1
        while True:
            puzzle = draw_puzzle(self._world, entities=list(self._world.entities), rng=self.rng)
            if puzzle is not None:
                return self._agent.demonstrate(puzzle)

    def _enter_world(self) -> None:
        self._world = LabWorld.make(self._next_world, size=self.config.world_size)
        retriever = BM25Retriever.from_documents(self._world.documents)
        top_k = self.rng.choice(self.config.top_k)

        def search(query: str) -> list[Document]:
            return [hit.document for hit in retriever.search([query], top_k)[0]]

        self._agent = Agent(
            self._world, search=search, habits=self.habits, rng=self.rng, max_searches=self.config.max_searches
        )
        self._next_world += 1
        self._left = self.config.samples_per_world


def _batches(
    samples: _Samples, *, steps: int, drills: tuple[float, float, tuple[float, float]], easy_until: float
) -> Iterator[list[Demonstration]]:
    """Batches of similar lengths; the mix of drills and demonstrations follows the progress of the stage."""
    config, rng = samples.config, samples.rng
    ready: list[list[Demonstration]] = []
    for step in range(steps):
        if not ready:
            progress = step / steps
            share = _ramp(progress, drills[0], drills[1], *drills[2])
            pool = [
                reading_drill(rng, easy=progress < easy_until) if rng.random() < share else samples.demonstration()
                for _ in range(_SORTED_AT_ONCE)
            ]
            pool.sort(key=lambda sample: len(sample.tokens))
            batch: list[Demonstration] = []
            for sample in pool:
                if batch and (len(batch) + 1) * len(sample.tokens) > config.batch_tokens:
                    ready.append(batch)
                    batch = []
                batch.append(sample)
            ready.append(batch)
            rng.shuffle(ready)
        yield ready.pop()


def _ramp(progress: float, start: float, end: float, begin: float, finish: float) -> float:
    return start + (end - start) * min(1.0, max(0.0, (progress - begin) / max(finish - begin, 1e-9)))


def make_model(config: PretrainConfig) -> LlamaForCausalLM:
    """The policy with its initial weights."""
    shape, words = config.shape, vocabulary()
    llama = LlamaConfig(
        vocab_size=len(words),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ff_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=words.index("<pad>"),
        eos_token_id=words.index("<eos>"),
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    model = LlamaForCausalLM(llama)
    initialise(model, seed=config.seed)
    return model


def _loss(model: LlamaForCausalLM, batch: list[Demonstration], ids: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean loss, and for each weighted token whether it was the likeliest and its weight."""
    length = max(len(sample.tokens) for sample in batch)
    device = model.device
    tokens_BT = torch.tensor(
        [[ids[t] for t in s.tokens] + [0] * (length - len(s.tokens)) for s in batch], device=device
    )
    weights_BT = torch.tensor([s.weights + [0.0] * (length - len(s.tokens)) for s in batch], device=device)
    hidden_BTD = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state  # right padding needs no mask
    chosen = weights_BT[:, 1:] > 0
    logits_NV = model.lm_head(hidden_BTD[:, :-1][chosen])
    targets_N, weights_N = tokens_BT[:, 1:][chosen], weights_BT[:, 1:][chosen]
    loss_N = functional.cross_entropy(logits_NV, targets_N, reduction="none")
    return (loss_N * weights_N).sum() / weights_N.sum(), logits_NV.argmax(-1) == targets_N, weights_N


def _train_stage(
    model: LlamaForCausalLM, samples: _Samples, *, config: PretrainConfig, stage: str, steps: int, lr: float
) -> list[dict[str, float]]:
    """One stage; returns forty log lines."""
    reading = stage == "reading"
    ids = {token: number for number, token in enumerate(vocabulary())}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    drills = (config.drills_start, config.drills_end, config.drills_fall) if reading else (0.1, 0.1, (0.0, 1.0))
    batches = _batches(samples, steps=steps, drills=drills, easy_until=config.easy_until if reading else 0.0)
    log: list[dict[str, float]] = []
    every, losses, hits, started = max(1, steps // 40), [], [], time.process_time()
    for step, batch in enumerate(batches):
        constant = config.constant_until if reading else 0.2
        rate = lr * min(
            (step + 1) / config.warmup_steps, _ramp(step / steps, 1.0, config.final_lr_share, constant, 1.0)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, right, weights = _loss(model, batch, ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        hits.append(right[weights == 1.0].float().mean().item())
        if (step + 1) % every == 0 or step + 1 == steps:
            line = {"step": step + 1, "loss": sum(losses) / len(losses), "accuracy": sum(hits) / len(hits)}
            log.append({**line, "cpu_seconds": round(time.process_time() - started, 1)})
            logger.info("%s %s", stage, log[-1])
            losses, hits = [], []
    return log


def pretrain(config: PretrainConfig) -> Path:
    """Train the base policy and save it, with its tokenizer and ``pretrain.json``, as a Hugging Face folder.

    The policy as it was before it learned mistakes goes into the folder's ``reading``: what RL can hope for.
    """
    torch.manual_seed(config.seed)
    rng = random.Random(f"calibadv-lab-pretrain-{config.seed}")
    model = make_model(config)
    if torch.cuda.is_available():
        nn.Module.to(model, "cuda")
    folder, samples = Path(config.output_dir), _Samples(config, rng=rng)
    logs = {"reading": _train_stage(model, samples, config=config, stage="reading", steps=config.steps, lr=config.lr)}
    save_policy(model, folder / "reading", config=config, logs=logs)
    samples.change_habits(config.mistakes)
    logs["mistakes"] = _train_stage(
        model, samples, config=config, stage="mistakes", steps=config.mistake_steps, lr=config.mistake_lr
    )
    return save_policy(model, folder, config=config, logs=logs)


def save_policy(
    model: LlamaForCausalLM, folder: Path, *, config: PretrainConfig, logs: dict[str, list[dict[str, float]]]
) -> Path:
    """Write weights, tokenizer and the record of the training into ``folder``."""
    words = vocabulary()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=words.index("<pad>"), eos_token_id=words.index("<eos>"), do_sample=True, temperature=1.0
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    record = {
        "sha256": file_sha256(folder / "model.safetensors"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "config": asdict(config),
        "torch": torch.__version__,
        "log": logs,
    }
    write_json(folder / "pretrain.json", record, indent=1)
    return folder


__all__ = ["FIRST_PRETRAINING_WORLD", "Habits", "PretrainConfig", "make_model", "pretrain", "save_policy"]
