"""vLLM, in this process and as a server, against `TransformersPolicy` on the same weights: what must be the same is.

Run by ``scripts/test-vllm``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.lab.questions import make_questions
from calibadv.models.config import ModelConfig
from calibadv.models.open_policy import OpenedPolicy, open_policy
from calibadv.rollout import Completion, RolloutConfig, SamplingParams, rollout
from calibadv.rollout.policies.vllm import VllmPolicy
from calibadv.trajectory import Document, Question, Trajectory

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]

SUBJECTS = (
    "the river Rhine", "a bicycle", "the moon", "chess", "the violin", "bread", "a lighthouse", "the number seven",
    "Iceland", "a glacier", "the telephone", "honey", "an oak tree", "the Olympic games", "salt", "a compass",
    "the colour blue", "volcanoes", "the alphabet", "a submarine",
)  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=48)
LARGEST_GAP = 0.02
"""Largest difference in log-probability between the two most probable tokens that rounding may turn round."""


@pytest.fixture(params=["vllm", "vllm-server"])
def engine(request: pytest.FixtureRequest) -> OpenedPolicy:
    name = {"vllm": "vllm_policy", "vllm-server": "server_policy"}[request.param]
    opened: OpenedPolicy = request.getfixturevalue(name)
    return opened


@pytest.fixture(scope="session")
def contexts(transformers_policy: OpenedPolicy) -> list[list[int]]:
    tokenizer = transformers_policy.tokenizer
    messages = [[{"role": "user", "content": f"Tell me two facts about {subject}."}] for subject in SUBJECTS]
    return [tokenizer.encode(tokenizer.chat(message) or "") for message in messages]


def test_greedy_output_agrees_token_for_token_on_20_prompts(
    engine: OpenedPolicy, transformers_policy: OpenedPolicy, contexts: list[list[int]], write_all: Any
) -> None:
    ours, theirs = (write_all(o.policy, contexts, GREEDY) for o in (transformers_policy, engine))
    assert len(contexts) == 20
    differing = [(c, a, b) for c, a, b in zip(contexts, ours, theirs, strict=True) if a.token_ids != b.token_ids]
    print(f"\n{20 - len(differing)} of 20 outputs are the same")
    for context, a, b in differing:
        first = next(i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y)
        gap = top_gap(transformers_policy.policy, [*context, *a.token_ids[:first]])
        print(f"differs from token {first} on; the two most probable tokens there are {gap:.2g} apart")
        assert gap <= LARGEST_GAP
    same = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.token_ids == b.token_ids]
    off = max(abs(x - y) for a, b in same for x, y in zip(a.logprobs, b.logprobs, strict=True))
    print(f"log-probabilities differ by {off:.2g} at most")
    assert off < 1e-3


def top_gap(policy: Any, context: list[int]) -> float:
    import torch

    with torch.inference_mode():
        logits = policy._packed.model(torch.tensor([context])).logits[0, -1].float()
    top = logits.log_softmax(-1).topk(2).values
    return float(top[0] - top[1])


@pytest.mark.parametrize("stop", [(" the",), (".", "\n\n"), ("</search>",)])
def test_a_turn_ends_with_the_token_that_completes_a_stop_string(
    engine: OpenedPolicy, transformers_policy: OpenedPolicy, contexts: list[list[int]], write_all: Any, stop: Any
) -> None:
    params = SamplingParams(temperature=0, max_tokens=24, stop=stop)
    ours, theirs = (write_all(o.policy, contexts[:8], params) for o in (transformers_policy, engine))
    assert [(c.token_ids, c.text, c.finish) for c in ours] == [(c.token_ids, c.text, c.finish) for c in theirs]
    if stop[0] in (" the", "."):
        assert any(c.finish == "stop" and any(s in c.text for s in stop) for c in theirs)


def test_an_end_token_is_kept_as_an_id_and_left_out_of_the_text(
    engine: OpenedPolicy, transformers_policy: OpenedPolicy, write_all: Any
) -> None:
    tokenizer = transformers_policy.tokenizer
    prompt = tokenizer.encode(tokenizer.chat([{"role": "user", "content": "Answer with one word: hello?"}]) or "")
    params = SamplingParams(temperature=0, max_tokens=200)
    (ours,), (theirs,) = (write_all(o.policy, [prompt], params) for o in (transformers_policy, engine))
    assert theirs.finish == "eos"
    # The generation config's: for a GGUF file some versions of transformers give the tokenizer another one.
    assert [theirs.token_ids[-1]] == tokenizer.encode("<|im_end|>")
    assert "<|im_end|>" not in theirs.text
    assert theirs.token_ids == ours.token_ids


def test_a_seed_decides_the_draws_of_its_request(
    engine: OpenedPolicy, contexts: list[list[int]], write_all: Any
) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=16)
    first, again, other = (
        write_all(engine.policy, contexts[:6], params, seed=seed) for seed in (2**63 + 5, 2**63 + 5, 7)
    )
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert [c.token_ids for c in first] != [c.token_ids for c in other]


def test_log_probabilities_are_those_at_temperature_1(
    engine: OpenedPolicy, transformers_policy: OpenedPolicy, contexts: list[list[int]], write_all: Any
) -> None:
    import torch

    params = SamplingParams(temperature=0.5, top_p=0.8, max_tokens=12)
    model = transformers_policy.policy._packed.model  # type: ignore[attr-defined]
    for context, done in zip(contexts[:4], write_all(engine.policy, contexts[:4], params), strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *done.token_ids]])).logits[0, len(context) - 1 : -1].float()
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
        assert torch.allclose(wanted, torch.tensor(done.logprobs), atol=1e-3)


def test_rollouts_are_well_formed_and_hold_the_ids_that_were_sampled(engine: OpenedPolicy, list_retriever: Any) -> None:
    questions = [Question(id=f"q{i}", text=f"What is {s}?", golden_answers=(s,)) for i, s in enumerate(SUBJECTS[:4])]
    config = RolloutConfig(
        max_turn_tokens=24, max_searches=2, on_invalid="retry", top_k=2, max_context_tokens=1500, temperature=1.0
    )
    result = rollout(
        questions, num_rollouts=2, policy=engine.policy, retriever=list_retriever, tokenizer=engine.tokenizer,
        config=config, seed=3,
    )  # fmt: skip
    assert len(result.trajectories) == 8
    assert result.counters["turns"] > 8
    for trajectory in result.trajectories:
        check_ids(trajectory, engine)


def check_ids(trajectory: Trajectory, opened: OpenedPolicy) -> None:
    """Ids and texts of a record belong together."""
    decode = opened.tokenizer.decode
    assert decode(trajectory.prompt_token_ids) == trajectory.prompt
    for turn in trajectory.turns:
        assert len(turn.token_ids) == len(turn.logprobs) > 0
        assert decode(turn.token_ids).startswith(turn.text)
        assert decode(turn.observation_token_ids) == turn.observation


def test_the_lab_policy_plays_the_same_episodes_under_vllm(list_retriever: Any) -> None:
    """Greedy episodes of several searches, whole: same actions, same ids."""
    from calibadv.lab import LabWorld, load_policy

    world = LabWorld.make(901)
    questions = make_questions(world, "test", count=6)
    config = RolloutConfig(
        prompt="question", top_k=2, max_searches=3, max_turn_tokens=64, max_context_tokens=768, temperature=0
    )

    def play(opened: OpenedPolicy) -> tuple[Trajectory, ...]:
        return rollout(
            questions, num_rollouts=2, policy=opened.policy, retriever=list_retriever, tokenizer=opened.tokenizer,
            config=config, seed=0,
        ).trajectories  # fmt: skip

    def ids(trajectories: tuple[Trajectory, ...]) -> list[list[tuple[int, ...]]]:
        return [[turn.token_ids for turn in t.turns] for t in trajectories]

    with open_policy(ModelConfig(path=load_policy(), device="cpu")) as opened:
        ours = play(opened)
    with open_policy(
        ModelConfig(path=load_policy(), engine="vllm", max_rows=200, engine_args=("enforce_eager=true",))
    ) as opened:
        theirs = play(opened)
        assert sum(len(t.search_turns) for t in theirs) >= 6
        assert ids(theirs) == ids(ours)
        assert [[turn.action for turn in t.turns] for t in theirs] == [[turn.action for turn in t.turns] for t in ours]
        # Many seeded requests at once, more prompt tokens than fit into one step of the engine.
        result = rollout(
            make_questions(world, "test", count=40), num_rollouts=5, policy=opened.policy, retriever=list_retriever,
            tokenizer=opened.tokenizer, config=dataclasses.replace(config, temperature=1.0), seed=1,
        )  # fmt: skip
    assert len(result.trajectories) == 200
    assert not any(t.failed for t in result.trajectories)


def test_new_weights_are_taken_over(
    smollm2: Path, engine: OpenedPolicy, contexts: list[list[int]], write_all: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = write_all(engine.policy, contexts[:3], GREEDY)
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2)
    model.model.norm.weight.data.mul_(0.5)
    if isinstance(engine.policy, VllmPolicy):  # on a CPU a server keeps the old head where that is the embedding
        model.model.embed_tokens.weight.data[:, ::3] *= 0.8
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(tmp_path)
    reload: Callable[[Path], None] = engine.policy.load_weights  # type: ignore[attr-defined]
    reload(tmp_path)
    with open_policy(ModelConfig(path=tmp_path, device="cpu", max_context=2048)) as changed:
        wanted = write_all(changed.policy, contexts[:3], GREEDY)
    got: list[Completion] = write_all(engine.policy, contexts[:3], GREEDY)
    reload(smollm2)
    assert [c.token_ids for c in got] == [c.token_ids for c in wanted]
    assert first_logprobs(got) == pytest.approx(first_logprobs(wanted), abs=1e-3)
    assert first_logprobs(got) != pytest.approx(first_logprobs(before), abs=1e-2)
    assert [c.token_ids for c in write_all(engine.policy, contexts[:3], GREEDY)] == [c.token_ids for c in before]


def first_logprobs(completions: list[Completion]) -> list[float]:
    return [c.logprobs[0] for c in completions]


def test_a_server_with_another_model_is_refused(server: str, tmp_path: Path) -> None:
    from calibadv.lab import load_policy

    with pytest.raises(ConfigError, match=r"serves .*, not model\.path"):
        open_policy(ModelConfig(path=load_policy(), engine="vllm-server", url=server))
    with pytest.raises(ConfigError, match=r"not model\.served_name"):
        open_policy(ModelConfig(path=load_policy(), engine="vllm-server", url=server, served_name="other"))


def test_a_server_whose_tokenizer_differs_is_refused(server: str, smollm2: Path) -> None:
    from calibadv.lab import load_policy

    with pytest.raises(ConfigError, match="encodes text differently"):
        open_policy(ModelConfig(path=load_policy(), engine="vllm-server", url=server, served_name=str(smollm2)))


@pytest.mark.parametrize("api", ["auto", "chat", "chat-continue"])
def test_the_openai_engine_plays_with_vllm_serve(server: str, smollm2: Path, list_retriever: Any, api: Any) -> None:
    questions = [Question(id=f"q{i}", text=f"What is {s}?", golden_answers=(s,)) for i, s in enumerate(SUBJECTS[:3])]
    config = RolloutConfig(max_turn_tokens=24, max_searches=1, on_invalid="retry", top_k=2, temperature=0)
    model = ModelConfig(path=smollm2, engine="openai", url=f"{server}/v1", tokenizer=smollm2, api=api)
    with open_policy(model) as opened:
        result = rollout(
            questions, num_rollouts=1, policy=opened.policy, retriever=list_retriever, tokenizer=opened.tokenizer,
            config=config, seed=0,
        )  # fmt: skip
        usage = opened.policy.usage  # type: ignore[attr-defined]
    assert usage["requests"] == result.counters["turns"]
    assert usage["completion_tokens"] > 0
    assert all(turn.text and not turn.logprobs for t in result.trajectories for turn in t.turns)


def test_the_openai_engine_writes_what_the_server_policy_writes(
    server: str, smollm2: Path, server_policy: OpenedPolicy, list_retriever: Any
) -> None:
    questions = [Question(id=f"q{i}", text=f"What is {s}?", golden_answers=(s,)) for i, s in enumerate(SUBJECTS[:3])]
    config = RolloutConfig(max_turn_tokens=24, max_searches=1, on_invalid="retry", top_k=2, temperature=0)

    def texts(opened: OpenedPolicy) -> list[str]:
        result = rollout(
            questions, num_rollouts=1, policy=opened.policy, retriever=list_retriever, tokenizer=opened.tokenizer,
            config=config, seed=0,
        )  # fmt: skip
        # First turns: text holds no end token, so after one the two engines go on from different contexts.
        return [t.turns[0].text for t in result.trajectories]

    with open_policy(ModelConfig(path=smollm2, engine="openai", url=server, tokenizer=smollm2)) as opened:
        assert opened.policy.api == "completions"  # type: ignore[attr-defined]
        assert texts(opened) == texts(server_policy)


@pytest.fixture
def list_retriever() -> Any:
    from calibadv.retrieval.list_retriever import ListRetriever

    documents = [Document(id=f"d{i}", title=f"Title {i}", text=f"Fact number {i} of a book.") for i in range(9)]
    return ListRetriever(lambda query: [documents[(sum(map(ord, query)) + j) % 9] for j in range(2)])


def test_unknown_engine_arguments_are_named(smollm2: Path) -> None:
    with pytest.raises(ConfigError, match="engine_args"):
        open_policy(ModelConfig(path=smollm2, engine="vllm", engine_args=("no_such_argument=1",)))
