"""Speed of a whole multi-turn rollout: ours against ``transformers.generate`` in lock-step.

    python benchmarks/rollout.py [--json] [--questions 16] [--rollouts 5] [--repeats 5] [--threads 1]

The lock-step loop is what the published systems do around their generator: all rollouts write a turn, the last to
finish holds up the rest, then all searches run, then the whole contexts are given to ``generate`` again. It stops at
the tags by token id, the cheapest stop there is. It is timed without log-probabilities, and with them (ours always
keeps them, and training needs them). All use the same model,
prompts, documents and sampling, and the runs are interleaved in one process. The model is the lab's, or, where its
weights are missing, a random one of its size whose vocabulary holds enough tags for episodes of the lab's length.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calibadv.dialogue.actions import read_turn
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.list import ListRetriever
from calibadv.rollout import CharTokenizer, RolloutConfig, Tokenizer, rollout
from calibadv.rollout.engine import make_prompts
from calibadv.rollout.episode import search_observation
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.rollout.transformers_policy import TransformersPolicy
from calibadv.trajectory import ActionKind, Document, Question

WEIGHTS = Path(__file__).parents[1] / "src/calibadv/lab/weights/base"
CONFIG = RolloutConfig(prompt="question", top_k=2, max_searches=3, max_turn_tokens=64, max_context_tokens=768)


class StandInTokenizer(CharTokenizer):
    """Words are numbered w0 ... w959; one in 12 reads as a whole search, one in 30 as a whole answer."""

    size = 960
    eos_ids = (1,)

    def encode(self, text: str) -> list[int]:
        words = text.replace("<", " <").replace(">", "> ").split()
        return [2 + sum(map(ord, word)) % (self.size - 2) for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(self._word, ids))

    def _word(self, token: int) -> str:
        if token % 12 == 5:
            return f"<search>w{token}</search>"
        return f"<answer>w{token}</answer>" if token % 30 == 7 else f"w{token}"

    def stop_ids(self) -> list[int]:
        return [1, *(i for i in range(self.size) if i % 12 == 5 or i % 30 == 7)]


def stand_in(num_questions: int) -> tuple[Any, Tokenizer, list[Question], Retriever, list[int]]:
    """A random model of the lab's size with questions and documents of the lab's length."""
    torch.manual_seed(0)
    tokenizer = StandInTokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.size, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    questions = [
        Question(id=f"q{i}", text=f"who made the film number {i} of that man ?", golden_answers=("w1",))
        for i in range(num_questions)
    ]
    words = ["is", "a", "film", "made", "by", "that", "man", "in", "a", "town", "near", "the", "river", "and", "then"]
    words += ["shown", "in", "a", "city", "."]
    documents = [Document(id=str(i), title=f"film {i}", text=" ".join(words[: 8 + i % 10])) for i in range(50)]
    retriever = ListRetriever(lambda query: [documents[(sum(map(ord, query)) + j) % 50] for j in range(2)])
    model: Any = LlamaForCausalLM(config)
    return model.eval(), tokenizer, questions, retriever, tokenizer.stop_ids()


def lab(num_questions: int) -> tuple[Any, Tokenizer, list[Question], Retriever, list[int]]:
    """The lab's model in a world of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from calibadv.lab.world import LabWorld
    from calibadv.retrieval.bm25 import BM25Retriever

    inner: Any = AutoTokenizer.from_pretrained(WEIGHTS)
    world = LabWorld.make(901)
    model: Any = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    stop = [*inner.convert_tokens_to_ids(["</search>", "</answer>"]), inner.eos_token_id]
    retriever = BM25Retriever.from_documents(world.documents)
    return model.eval(), as_tokenizer(inner), world.questions("test", count=num_questions), retriever, stop


def lockstep(
    model: Any, tokenizer: Tokenizer, questions: list[Question], retriever: Retriever, stop: list[int], rollouts: int,
    logprobs: bool,
) -> dict[str, int]:  # fmt: skip
    """The loop to compare with."""
    prompts = make_prompts(questions, num_rollouts=rollouts, tokenizer=tokenizer, config=CONFIG)
    contexts = [list(prompt.token_ids) for prompt in prompts for _ in range(rollouts)]
    active, generated, read = list(range(len(contexts))), 0, 0
    for turn in range(CONFIG.max_searches + 1):
        width = max(len(contexts[i]) for i in active)
        padding = [width - len(contexts[i]) for i in active]
        ids = torch.tensor([[0] * pad + contexts[i] for i, pad in zip(active, padding, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=CONFIG.max_turn_tokens, do_sample=True, top_k=0,
                temperature=1.0, eos_token_id=stop, pad_token_id=0, return_dict_in_generate=True,
                output_logits=logprobs,
            )  # fmt: skip
            if logprobs:
                for logits, sampled in zip(out.logits, out.sequences[:, width:].T, strict=True):
                    torch.log_softmax(logits, dim=-1).gather(1, sampled[:, None])
        read += sum(len(contexts[i]) for i in active)
        searches: list[tuple[int, str]] = []
        for i, row in zip(active, out.sequences[:, width:].tolist(), strict=True):
            end = next((n + 1 for n, token in enumerate(row) if token in stop), len(row))
            generated += end
            contexts[i] += row[:end]
            action = read_turn(tokenizer.decode(row[:end]), think_open=True).action
            if action.kind is ActionKind.SEARCH and turn < CONFIG.max_searches:
                searches.append((i, action.content))
        if not searches:
            break
        results = retriever.search([query for _, query in searches], CONFIG.top_k)
        for (i, _), hits in zip(searches, results, strict=True):
            documents = [hit.document for hit in hits]
            contexts[i] += search_observation(documents, tokenizer=tokenizer, config=CONFIG).token_ids
        active = [i for i, _ in searches]
    return {"generated_tokens": generated, "read_tokens": read, "tokens": sum(map(len, contexts))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model_name = "lab" if WEIGHTS.exists() else "stand-in"
    model, tokenizer, questions, retriever, stop = (lab if model_name == "lab" else stand_in)(args.questions)
    policy = TransformersPolicy(model, tokenizer, max_rows=args.questions * args.rollouts)
    rows: dict[str, list[dict[str, Any]]] = {
        "ours": [], "lock-step": [], "lock-step with log-probabilities": [],
    }  # fmt: skip
    for repeat in range(args.repeats + 1):  # the first is a warm-up
        for name, entries in rows.items():
            wall, cpu, read = time.perf_counter(), time.process_time(), policy.read_tokens
            if name == "ours":
                result = rollout(
                    questions, num_rollouts=args.rollouts, policy=policy, retriever=retriever, tokenizer=tokenizer,
                    config=CONFIG, seed=repeat,
                )  # fmt: skip
                counts: dict[str, Any] = dict(result.counters)
                counts["read_tokens"] = policy.read_tokens - read
                counts["tokens"] = sum(counts[f"{kind}_tokens"] for kind in ("prompt", "generated", "observation"))
                counts |= {f"{part}_s": seconds for part, seconds in result.seconds.items()}
            else:
                torch.manual_seed(repeat)
                counts = lockstep(model, tokenizer, questions, retriever, stop, args.rollouts, logprobs="with" in name)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if repeat:
                entries.append({"wall_s": wall, "cpu_s": cpu, **counts})
    report = summarise(rows, args.questions) | {"model": model_name, "threads": args.threads}
    write = sys.stdout.write
    if args.json:
        write(json.dumps(report, indent=1) + "\n")
        return
    for name in rows:
        row = report[name]
        write(f"{name}:" + "".join(f"  {key} {value:.4g}" for key, value in row.items()) + "\n")
    for name, ratio in report["speedup"].items():
        text = f"wall {ratio['wall']:.2f}, CPU {ratio['cpu']:.2f}"
        write(f"questions/s against {name}: {text} ({model_name} model, {args.threads} threads)\n")


def summarise(rows: dict[str, list[dict[str, Any]]], num_questions: int) -> dict[str, Any]:
    """Medians over the repeats, and medians of the ratios of neighbouring runs."""
    report: dict[str, Any] = {}
    for name, entries in rows.items():
        report[name] = {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        report[name]["questions_per_s"] = num_questions / report[name]["wall_s"]
        report[name]["generated_per_s"] = report[name]["generated_tokens"] / report[name]["wall_s"]
    ours, *others = rows
    report["speedup"] = {
        name: {
            kind: statistics.median(
                b[f"{kind}_s"] / a[f"{kind}_s"] for a, b in zip(rows[ours], rows[name], strict=True)
            )
            for kind in ("wall", "cpu")
        }
        for name in others
    }
    return report


if __name__ == "__main__":
    main()
