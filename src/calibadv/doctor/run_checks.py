"""All checks of a run in order; what cannot be checked because something before it failed is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

from calibadv.config import RunConfig
from calibadv.data.config import load_split
from calibadv.doctor.check import Check, Level, guarded
from calibadv.doctor.check_context import check_context
from calibadv.doctor.check_data import check_data
from calibadv.doctor.check_disk import check_disk
from calibadv.doctor.check_memory import check_memory
from calibadv.doctor.check_retriever import check_retriever
from calibadv.doctor.check_settings import check_settings
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
    """Check a run, one outcome after the other; the quick checks first, those that ask the hub or a server later.

    Args:
        config: The run.
        probe: So many training questions are also played.
        processes: How many will train it.
        progress: Called with the rollouts of the probe that have ended, and their number.
    """
    yield from guarded("settings", lambda: check_settings(config))
    yield from guarded("data", lambda: check_data(config))
    questions = kept(lambda: load_split(config.data, "train", limit=config.data.limit)) or []
    tokenizer: Tokenizer | None = None
    try:
        tokenizer = open_tokenizer(config)
    except (ValueError, OSError) as error:
        yield Check(name="model", level=Level.BLOCKER, summary=str(error))
    if tokenizer is not None:
        found = tokenizer
        yield from guarded("tags", lambda: check_tags(found, questions=questions))
        yield from guarded("chat template", lambda: check_chat(found, rollout=config.rollout))
        yield from guarded("memory", lambda: check_room(config, found, questions=questions, processes=processes))
    with ExitStack() as stack:
        try:
            retriever = stack.enter_context(opened_retriever_of(config))
        except (ValueError, OSError, RuntimeError) as error:
            remedy = "start it, or fix retrieval.url" if isinstance(error, RetrieverError) else ""
            summary = f"{type(error).__name__}: {error}"
            yield Check(name="retriever", level=Level.BLOCKER, summary=summary, remedy=remedy)
            return
        if not questions:
            return
        yield from guarded(
            "retriever",
            lambda: check_retriever(retriever, questions=questions, top_k=config.rollout.top_k),
            remedy="start the retrieval server, or fix the [retrieval] section",
        )
        if probe and tokenizer is not None:
            from calibadv.doctor.check_probe import check_probe

            yield from guarded(
                "probe",
                lambda: check_probe(
                    config, retriever, questions=questions, count=probe, processes=processes, progress=progress
                ),
            )


def open_tokenizer(config: RunConfig) -> Tokenizer:
    """The run's tokenizer; `ConfigError` when the model has none, or there is no model."""
    from calibadv.models.load import load_tokenizer

    return HFTokenizer(load_tokenizer(config.model))


def opened_retriever_of(config: RunConfig) -> AbstractContextManager[Any]:
    """The run's retriever; a server that does not answer at once is not waited for."""
    from calibadv.retrieval.open import opened_retriever

    remote = replace(config.retrieval.remote, wait_s=min(PATIENCE_S, config.retrieval.remote.wait_s))
    settings = replace(config.retrieval, remote=remote)
    return opened_retriever(settings, top_k=config.rollout.top_k, retry=Retry(retries=1))


def check_room(config: RunConfig, tokenizer: Tokenizer, *, questions: list[Question], processes: int) -> list[Check]:
    """Memory and disk, from the model's shape and the longest prompt."""
    from calibadv.models.sizes import read_shape

    shape = read_shape(config.model, lora=config.lora)
    some = questions[:200]
    prompts = make_prompts(some, num_rollouts=1, tokenizer=tokenizer, config=config.rollout) if some else []
    longest = max((len(prompt.token_ids) for prompt in prompts), default=200)
    return [
        *check_context(config, max_context=shape.max_context, prompt_tokens=longest),
        check_memory(config, shape, prompt_tokens=longest, processes=processes),
        check_disk(config, shape),
    ]


def kept(load: Callable[[], list[Question]]) -> list[Question] | None:
    """What loading gives, or None where a check has already said what is wrong."""
    try:
        return load()
    except (ValueError, OSError):
        return None
