"""All checks of a run in order; what cannot be checked because something before it failed is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from calibadv.config import RunConfig
from calibadv.config.run_folder import check_run_folder
from calibadv.data.config import load_split
from calibadv.doctor.check import Check, Level, guarded
from calibadv.doctor.check_data import check_data
from calibadv.doctor.check_resources import check_disk, check_memory
from calibadv.doctor.check_retriever import check_retriever
from calibadv.doctor.check_tokenizer import check_chat, check_tags
from calibadv.errors import RetrieverError
from calibadv.io.retry import Retry
from calibadv.rollout.prompts import make_prompts
from calibadv.rollout.tokenizer import HFTokenizer, Tokenizer
from calibadv.trajectory import Question

Progress = Callable[[int, int], None]

PATIENCE_S = 5.0
"""How long a retrieval server may take to say that it is there."""


def examine(
    config: RunConfig, *, probe: int = 0, processes: int = 1, progress: Progress | None = None
) -> Iterator[Check]:
    """Check a run of so many processes, one outcome after the other; with ``probe`` also play that many questions."""
    yield from guarded("settings", lambda: check_settings(config))
    yield from guarded("data", lambda: check_data(config))
    questions = kept(lambda: load_split(config.data, "train", limit=config.data.limit))
    tokenizer: Tokenizer | None = None
    try:
        tokenizer = open_tokenizer(config)
    except (ValueError, OSError) as error:
        yield Check(name="model", level=Level.BLOCKER, summary=str(error))
    if tokenizer is not None:
        found = tokenizer
        yield from guarded("tags", lambda: check_tags(found))
        yield from guarded("chat template", lambda: check_chat(found, rollout=config.rollout))
        yield from guarded("memory", lambda: check_room(config, found, questions=questions, processes=processes))
    retriever: Any = None
    try:
        retriever = open_retriever_of(config)
    except (ValueError, OSError, RuntimeError) as error:
        yield Check(
            name="retriever",
            level=Level.BLOCKER,
            summary=f"{type(error).__name__}: {error}",
            remedy="start it, or mend retrieval.url" if isinstance(error, RetrieverError) else "",
        )
    if retriever is not None and questions:
        asked = questions
        yield from guarded(
            "retriever",
            lambda: check_retriever(retriever, questions=asked, top_k=config.rollout.top_k),
            remedy="start the retrieval server, or mend the [retrieval] section",
        )
    if probe and retriever is not None and tokenizer is not None and questions:
        from calibadv.doctor.probe import check_probe

        yield from guarded(
            "probe",
            lambda: check_probe(
                config, retriever, questions=asked, count=probe, processes=processes, progress=progress
            ),
        )


def check_settings(config: RunConfig) -> list[Check]:
    """The settings by themselves, and the run's folder."""
    config.check_trainable()
    check_run_folder(config, resume=False)
    settings = config.training
    batches = settings.steps // settings.updates_per_batch
    rows = settings.questions_per_batch * settings.num_rollouts
    return [
        Check(
            name="settings",
            summary=f"{config.algorithm.name}: {batches} batches of {settings.questions_per_batch} questions x "
            f"{settings.num_rollouts} rollouts ({rows:,}), {settings.updates_per_batch} optimizer steps each",
            facts={"batches": batches, "rollouts_per_batch": rows},
        )
    ]


def open_tokenizer(config: RunConfig) -> Tokenizer:
    """The run's tokenizer; `ConfigError` when the model has none, or there is no model."""
    from calibadv.models.load import load_tokenizer

    return HFTokenizer(load_tokenizer(config.model))


def open_retriever_of(config: RunConfig) -> Any:
    """The run's retriever; a server that does not answer at once is not waited for."""
    from calibadv.retrieval.open import open_retriever

    remote = replace(config.retrieval.remote, wait_s=min(PATIENCE_S, config.retrieval.remote.wait_s))
    return open_retriever(replace(config.retrieval, remote=remote), top_k=config.rollout.top_k, retry=Retry(retries=1))


def check_room(
    config: RunConfig, tokenizer: Tokenizer, *, questions: list[Question] | None, processes: int
) -> list[Check]:
    """Memory and disk, from the model's shape and the longest prompt."""
    from calibadv.models.sizes import read_shape

    shape = read_shape(config.model, lora=config.lora)
    some = (questions or [])[:200]
    prompts = make_prompts(some, num_rollouts=1, tokenizer=tokenizer, config=config.rollout) if some else []
    longest = max((len(prompt.token_ids) for prompt in prompts), default=200)
    return [
        *check_context(config, max_context=shape.max_context, prompt_tokens=longest),
        check_memory(config, shape, prompt_tokens=longest, processes=processes),
        check_disk(config, shape),
    ]


def check_context(config: RunConfig, *, max_context: int | None, prompt_tokens: int) -> list[Check]:
    """Whether an episode that uses all its limits fits into the model's context."""
    rollout = config.rollout
    longest = prompt_tokens + rollout.max_searches * (rollout.max_turn_tokens + rollout.max_observation_tokens)
    longest += rollout.max_turn_tokens
    limit = min(max_context or math.inf, rollout.max_context_tokens or math.inf)
    if math.isinf(limit):
        return []
    least = prompt_tokens + min(rollout.max_observation_tokens, 150 * rollout.top_k) + 2 * 50
    level = Level.BLOCKER if least > limit else Level.WARNING if longest > limit else Level.OK
    return [
        Check(
            name="context",
            level=level,
            summary=f"the longest episode that the settings allow has {longest:,} tokens; the context holds "
            f"{int(limit):,}",
            remedy=""
            if level is Level.OK
            else "long episodes will end early (stop reason context_length); lower rollout.max_searches, "
            "rollout.max_turn_tokens or rollout.max_observation_tokens"
            if level is Level.WARNING
            else "not even one search fits: lower rollout.max_observation_tokens, or take another model",
            facts={"longest": longest, "limit": int(limit), "longest_prompt": prompt_tokens},
        )
    ]


def kept(load: Callable[[], list[Question]]) -> list[Question] | None:
    """What loading gives, or None where a check has already said what is wrong."""
    try:
        return load()
    except (ValueError, OSError):
        return None
