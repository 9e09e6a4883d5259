"""TransformersPolicy against plain forwards and ``generate`` of the same model, on tiny random models made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from calibadv.trajectory import Question

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from calibadv.errors import ConfigError, PolicyError  # noqa: E402
from calibadv.retrieval.list_retriever import ListRetriever  # noqa: E402
from calibadv.rollout import (  # noqa: E402
    CharTokenizer,
    Completion,
    GenerationRequest,
    RolloutConfig,
    RolloutResult,
    SamplingParams,
    rollout,
)
from calibadv.rollout.policies.kv_room import row_bytes, rows_that_fit  # noqa: E402
from calibadv.rollout.policies.transformers import TransformersPolicy  # noqa: E402
from calibadv.trajectory import Document, StopReason, Trajectory  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"vocab_size": 128, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
KINDS = ("llama", "gpt2", "qwen2", "neox")


def make_model(kind: str = "llama", *, dtype: Any = torch.float32, **changes: Any) -> Any:
    torch.manual_seed(0)
    config: Any
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=1024, **IDS, **changes)
    else:
        classes = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "neox": "GPTNeoXConfig", "mistral": "MistralConfig"}
        heads = {} if kind == "neox" else {"num_key_value_heads": 1 if kind == "qwen2" else 2}
        settings = SIZES | IDS | heads | {"max_position_embeddings": 1024, "initializer_range": 0.2} | changes
        config = getattr(transformers, classes[kind])(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    if kind == "gpt2":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(5)  # its start is so small that every next token is equally likely
    return model.eval()


class TagTokenizer(CharTokenizer):
    """Characters, but two of them read as a whole search and a whole answer, so that a random model uses tags."""

    def __init__(self, searches: str = "!#$%&", answers: str = "+") -> None:
        self.searches, self.answers = set(map(ord, searches)), set(map(ord, answers))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.word, ids))

    def word(self, token: int) -> str:
        if token in self.searches:
            return f"<search>{token}</search>"
        return "<answer>x</answer>" if token in self.answers else chr(token)


@pytest.fixture
def run(questions: Callable[[int], list[Question]], documents: list[Document]) -> Callable[..., RolloutResult]:
    def play(policy: Any, *, num_questions: int = 4, num_rollouts: int = 3, **config: Any) -> RolloutResult:
        settings: dict[str, Any] = {"prompt": "question", "max_turn_tokens": 40, "top_k": 1} | config
        return rollout(
            questions(num_questions), num_rollouts=num_rollouts, policy=policy, retriever=ListRetriever(documents),
            tokenizer=TagTokenizer(), config=RolloutConfig(**settings), seed=3,
        )  # fmt: skip

    return play


def full_logprobs(model: Any, trajectory: Trajectory) -> tuple[list[float], list[float]]:
    """(sampled, recomputed by one forward over the whole context)."""
    ids = list(trajectory.prompt_token_ids)
    places: list[int] = []
    sampled: list[float] = []
    for turn in trajectory.turns:
        places += range(len(ids), len(ids) + len(turn.token_ids))
        sampled += turn.logprobs
        ids += [*turn.token_ids, *turn.observation_token_ids]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
    return sampled, [float(logprobs[place - 1, ids[place]]) for place in places]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"max_rows": 5, "cache_rows": 5, "max_tick_tokens": 30}])
@pytest.mark.parametrize("gather", [True, False])  # the way of a CPU and that of a GPU
def test_logprobs_agree_with_one_full_forward(
    kind: str, settings: dict[str, int], gather: bool, run: Callable[..., RolloutResult]
) -> None:
    model = make_model(kind)
    policy = TransformersPolicy(model, TagTokenizer(), gather=gather, **settings)
    result = run(policy)
    assert result.counters["searches"] > 3
    for trajectory in result.trajectories:
        sampled, full = full_logprobs(model, trajectory)
        assert sampled == pytest.approx(full, abs=1e-4)
        assert len(sampled) == sum(len(turn.token_ids) for turn in trajectory.turns)


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_agree_in_bfloat16(kind: str, run: Callable[..., RolloutResult]) -> None:
    model = make_model(kind, dtype=torch.bfloat16)
    for trajectory in run(TransformersPolicy(model, TagTokenizer())).trajectories:
        sampled, full = full_logprobs(model, trajectory)
        errors = [abs(a - b) for a, b in zip(sampled, full, strict=True)]
        assert sum(errors) / len(errors) < 0.05
        assert max(errors) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_equals_generate_token_for_token(kind: str, run: Callable[..., RolloutResult]) -> None:
    model = make_model(kind)
    result = run(TransformersPolicy(model, TagTokenizer()), num_rollouts=1, num_questions=6, temperature=0.0)
    for trajectory in result.trajectories:
        context = list(trajectory.prompt_token_ids)
        for turn in trajectory.turns:
            with torch.no_grad():
                out = model.generate(
                    torch.tensor([context]), attention_mask=torch.ones(1, len(context), dtype=torch.long),
                    max_new_tokens=len(turn.token_ids), do_sample=False, pad_token_id=0,
                )  # fmt: skip
            assert tuple(out[0, len(context) :].tolist()) == turn.token_ids
            context += [*turn.token_ids, *turn.observation_token_ids]


def test_few_rows_with_refills_and_evictions_write_the_same_as_many(run: Callable[..., RolloutResult]) -> None:
    model = make_model()
    texts = []
    settings: dict[str, int]
    for settings in ({"max_rows": 80}, {"max_rows": 7}, {"max_rows": 7, "cache_rows": 7, "max_tick_tokens": 16}):
        policy = TransformersPolicy(model, TagTokenizer(), gather=settings["max_rows"] == 80, **settings)
        result = run(policy, num_questions=16, num_rollouts=5, temperature=0.0, search_overlap=4,
                     max_turn_tokens=16)  # fmt: skip
        texts.append([[turn.text for turn in t.turns] for t in result.trajectories])
    assert texts[0] == texts[1] == texts[2]


def test_memory_that_does_not_suffice_halves_the_rows_and_changes_no_turn(
    run: Callable[..., RolloutResult], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(dtype=torch.float64)  # logits of a row are as good as free of the shapes they were computed in
    wanted = run(TransformersPolicy(model, TagTokenizer(), max_rows=80), num_questions=8)

    def without_room(*_: Any) -> None:
        if policy.max_rows > 10 and policy.written_tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    policy = TransformersPolicy(model, TagTokenizer(), max_rows=80)
    handle = model.model.embed_tokens.register_forward_pre_hook(without_room)
    result = run(policy, num_questions=8)
    handle.remove()
    assert policy.max_rows == 10
    assert caplog.text.count("Memory does not suffice") == 3
    assert [[turn.token_ids for turn in t.turns] for t in result.trajectories] == [
        [turn.token_ids for turn in t.turns] for t in wanted.trajectories
    ]


def test_memory_that_does_not_suffice_for_one_row_ends_the_rollout(run: Callable[..., RolloutResult]) -> None:
    def without_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = make_model()
    policy = TransformersPolicy(model, TagTokenizer(), max_rows=2)
    model.model.embed_tokens.register_forward_pre_hook(without_room)
    with pytest.raises(torch.OutOfMemoryError):
        run(policy)


def test_rows_are_what_free_memory_has_room_for_at_the_longest_context() -> None:
    qwen = SimpleNamespace(
        num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, head_dim=128, hidden_size=2048
    )
    at_8k = row_bytes(qwen, tokens=8192, itemsize=2)
    assert at_8k == 2 * 36 * 2 * 128 * 2 * 8192
    assert rows_that_fit(free=40 * 2**30, row_bytes=at_8k) == 91
    assert rows_that_fit(free=2**40, row_bytes=at_8k) == 512
    assert rows_that_fit(free=0, row_bytes=at_8k) == 1
    whole = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, hidden_size=64)
    assert row_bytes(whole, tokens=10, itemsize=4) == 2 * 2 * 4 * 16 * 4 * 10


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_p": 0.8}, {}])
def test_draws_do_not_depend_on_what_else_is_in_the_batch(
    settings: dict[str, float], run: Callable[..., RolloutResult]
) -> None:
    # In float64 the logits of a row are as good as free of the shapes they were computed in.
    model = make_model(dtype=torch.float64)
    many = run(TransformersPolicy(model, TagTokenizer(), max_rows=80), num_questions=8, **settings)
    few = run(TransformersPolicy(model, TagTokenizer(), max_rows=3), num_questions=8, **settings)
    assert [t.turns[0].token_ids for t in many.trajectories] == [t.turns[0].token_ids for t in few.trajectories]
    assert len({t.turns[0].token_ids for t in many.trajectories[:3]}) == 3  # rollouts of a group differ


def test_two_runs_are_the_same_to_the_bit(run: Callable[..., RolloutResult]) -> None:
    policy = TransformersPolicy(make_model(), TagTokenizer(), max_rows=6)
    first, second = run(policy), run(policy)
    assert first.trajectories == second.trajectories


def test_every_new_token_is_read_once_and_shared_prompts_once_per_group(run: Callable[..., RolloutResult]) -> None:
    policy = TransformersPolicy(make_model(), TagTokenizer(), max_rows=80)
    counters = run(policy, num_questions=4, num_rollouts=5).counters
    resumed = counters["turns"] - 20  # a resumed turn also reads the last token of the turn before
    assert policy.read_tokens == counters["prompt_tokens"] // 5 + counters["observation_tokens"] + resumed
    assert policy.written_tokens == counters["generated_tokens"]


def test_the_model_is_left_as_it_was(run: Callable[..., RolloutResult]) -> None:
    model = make_model().train()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    run(TransformersPolicy(model, TagTokenizer()))
    assert model.training
    after = model(ids).logits
    assert torch.equal(after, before)
    after.sum().backward()  # our attention, which only reads packed rows, is gone: gradients flow


def test_new_weights_are_used_at_the_next_rollout(run: Callable[..., RolloutResult]) -> None:
    model = make_model()
    policy = TransformersPolicy(model, TagTokenizer())
    run(policy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    for trajectory in run(policy).trajectories:
        sampled, full = full_logprobs(model, trajectory)
        assert sampled == pytest.approx(full, abs=1e-4)


class Requests:
    """A queue of single turns."""

    def __init__(self, requests: list[GenerationRequest]) -> None:
        self.waiting = requests

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        taken, self.waiting = self.waiting[:room], self.waiting[room:]
        return taken

    def ended(self) -> list[int]:
        return []


def complete(policy: TransformersPolicy, **params: Any) -> Completion:
    settings = {"max_tokens": 60, "temperature": 1.0} | params
    request = GenerationRequest(episode=0, token_ids=(65, 66, 67), params=SamplingParams(**settings), seed=5)
    (completion,) = policy.generate(Requests([request]))
    return completion


def test_a_turn_ends_at_a_stop_string_spread_over_tokens() -> None:
    policy = TransformersPolicy(make_model(), CharTokenizer())
    free = complete(policy, stop=())
    assert (free.finish, len(free.token_ids)) == ("length", 60)
    stop = free.text[20:23]
    stopped = complete(policy, stop=(stop, "never to be seen"))
    assert stopped.finish == "stop"
    assert stopped.text == free.text[: free.text.index(stop) + 3]


def test_a_turn_ends_at_the_end_of_sequence_token_which_is_kept_as_sampled_but_not_in_the_text() -> None:
    model = make_model()
    free = complete(TransformersPolicy(model, CharTokenizer()), stop=())
    model.generation_config.eos_token_id = [free.token_ids[10], 127]
    ended = complete(TransformersPolicy(model, CharTokenizer()), stop=())
    length = free.token_ids.index(free.token_ids[10]) + 1
    assert ended.finish == "eos"
    assert ended.token_ids == free.token_ids[:length]
    assert ended.text == free.text[: length - 1]


def test_logits_that_are_not_finite_name_the_episode(run: Callable[..., RolloutResult]) -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(PolicyError, match=r"episode 0: the model's logits are not finite"):
        run(TransformersPolicy(model, TagTokenizer()))
    with torch.no_grad():
        model.lm_head.weight[5] = 0
    run(TransformersPolicy(model, TagTokenizer()))


def test_an_episode_that_ends_in_the_middle_of_a_turn_leaves_the_batch() -> None:
    class Ending(Requests):
        ticks = 0

        def ended(self) -> list[int]:
            self.ticks += 1
            return [0, 1] if self.ticks == 4 else []

    policy = TransformersPolicy(make_model(), CharTokenizer())
    requests = [
        GenerationRequest(episode=i, token_ids=(65, 66), params=SamplingParams(max_tokens=9, stop=()), seed=i)
        for i in range(3)
    ]
    assert [completion.episode for completion in policy.generate(Ending(requests))] == [2]


def test_a_model_that_never_writes_a_tag_is_data(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    result = rollout(
        questions(3), num_rollouts=2, policy=TransformersPolicy(make_model(), CharTokenizer()), seed=0,
        retriever=ListRetriever(documents), tokenizer=CharTokenizer(), config=RolloutConfig(max_turn_tokens=30),
    )  # fmt: skip
    assert {t.stop_reason for t in result.trajectories} == {StopReason.INVALID_ACTION}
    assert any(t.turns[0].truncated for t in result.trajectories)


def test_the_policys_context_ends_episodes_as_data(run: Callable[..., RolloutResult]) -> None:
    policy = TransformersPolicy(make_model(), TagTokenizer(answers=""), max_context=120)
    result = run(policy, max_turn_tokens=60)
    assert StopReason.CONTEXT_LENGTH in {t.stop_reason for t in result.trajectories}
    longest = max(
        len(t.prompt_token_ids) + sum(len(u.token_ids) + len(u.observation_token_ids) for u in t.turns)
        for t in result.trajectories
    )
    assert longest <= 120


def test_sliding_windows_smaller_than_the_context_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"sliding_attention over 64 tokens.*set model.max_context to at most 64"):
        TransformersPolicy(make_model("mistral", sliding_window=64), TagTokenizer())
    TransformersPolicy(make_model("mistral", sliding_window=64), TagTokenizer(), max_context=64)


def test_a_window_as_large_as_the_context_changes_nothing(run: Callable[..., RolloutResult]) -> None:
    model = make_model("mistral", sliding_window=256)
    policy = TransformersPolicy(model, TagTokenizer(), max_context=256)
    for trajectory in run(policy).trajectories:
        sampled, full = full_logprobs(model, trajectory)
        assert sampled == pytest.approx(full, abs=1e-4)


def test_other_kinds_of_layers_are_refused() -> None:
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=128, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(PolicyError, match="BloomForCausalLM does not let its attention function be replaced"):
        TransformersPolicy(bloom, TagTokenizer(), max_context=100)
    model = make_model()
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(PolicyError, match="layers of the kind linear_attention"):
        TransformersPolicy(model, TagTokenizer())


def test_a_model_whose_attention_differs_in_some_other_way_is_refused(run: Callable[..., RolloutResult]) -> None:
    model = make_model()
    inner = model.model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] * 3
        return inner(*args, **kwargs)

    model.model.forward = shifted
    with pytest.raises(PolicyError, match="other logits with packed attention than without"):
        run(TransformersPolicy(model, TagTokenizer()))


def test_dropout_of_a_model_in_training_reaches_neither_the_check_nor_the_rollouts(
    run: Callable[..., RolloutResult],
) -> None:
    model = make_model("gpt2")  # drops a tenth of everything by default
    model.train()
    model.transformer.h[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    result = run(TransformersPolicy(model, TagTokenizer()))
    assert {name: module.training for name, module in model.named_modules()} == modes
    model.eval()
    for trajectory in result.trajectories:
        sampled, full = full_logprobs(model, trajectory)
        assert sampled == pytest.approx(full, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_rows": 0}, "max_rows must be >= 1, got 0"),
        ({"max_rows": 8, "cache_rows": 7}, "cache_rows must be >= max_rows = 8, got 7"),
        ({"max_tick_tokens": 64}, "max_tick_tokens must be > max_rows = 64, got 64"),
        ({"max_context": 2000}, r"max_context must be in \[2, 1024\].*got 2000"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformersPolicy(make_model(), TagTokenizer(), **settings)


def test_a_context_that_is_too_long_is_refused() -> None:
    policy = TransformersPolicy(make_model(), CharTokenizer(), max_context=10)
    request = GenerationRequest(episode=3, token_ids=(65,) * 10, params=SamplingParams(), seed=0)
    with pytest.raises(PolicyError, match="episode 3: its context has 10 tokens, but the policy holds 10"):
        list[Any](policy.generate(Requests([request])))


def test_a_generation_that_is_abandoned_leaves_the_model_as_it_was() -> None:
    model, ids = make_model(), torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    requests = [
        GenerationRequest(episode=i, token_ids=(65, 66), params=SamplingParams(max_tokens=i + 1, stop=()), seed=i)
        for i in range(3)
    ]
    completions = TransformersPolicy(model, CharTokenizer()).generate(Requests(requests))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert torch.equal(model(ids).logits, before)
