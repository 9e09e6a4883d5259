"""The prompts of questions, encoded once, and what must hold before anybody plays: room in the context and for tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from calibadv.dialogue.observation import render_observation
from calibadv.dialogue.prompt import prompt_template, render_prompt
from calibadv.errors import ConfigError, DataError
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Prompt
from calibadv.rollout.tokenizer import Tokenizer, with_template_kwargs
from calibadv.trajectory import Question


def make_prompts(
    questions: Sequence[Question], *, num_rollouts: int, tokenizer: Tokenizer, config: RolloutConfig
) -> list[Prompt]:
    """Render and encode each question's prompt once."""
    if num_rollouts < 1:
        raise ConfigError(f"num_rollouts must be >= 1, got {num_rollouts}")
    if not questions:
        raise DataError("there are no questions to roll out")
    names = Counter((question.dataset, question.id) for question in questions)
    (dataset, name), times = names.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"question id {name!r} (data set {dataset!r}) is given {times} times; give it once and raise num_rollouts"
        )
    template = prompt_template(config.prompt)
    tokenizer = with_template_kwargs(tokenizer, config.chat_template_kwargs)
    has_chat = tokenizer.chat([{"role": "user", "content": "?"}]) is not None
    chat = (lambda messages: tokenizer.chat(messages) or "") if has_chat else None
    opening = "" if has_chat else tokenizer.opening()
    prompts = []
    for question in questions:
        text = render_prompt(question.text, template=template, chat=chat, think_prefill=config.think_prefill)
        text = opening + text
        prompts.append(Prompt(text=text, token_ids=tuple(tokenizer.encode(text))))
    return prompts


def check_prompts(questions: Sequence[Question], prompts: Sequence[Prompt], *, max_context: int | None) -> None:
    """Every prompt must leave room for at least one token."""
    for question, prompt in zip(questions, prompts, strict=True):
        if not prompt.token_ids:
            raise DataError(f"question {question.id!r}: its prompt has no token; check the question and the tokenizer")
        if max_context is not None and len(prompt.token_ids) >= max_context:
            raise ConfigError(
                f"question {question.id!r}: its prompt has {len(prompt.token_ids)} tokens, but the context holds "
                f"{max_context}; raise rollout.max_context_tokens (or model.max_context), or drop the question"
            )


def check_observations(tokenizer: Tokenizer, *, config: RolloutConfig) -> None:
    """The limit on observations must admit at least the tags of one."""
    text, _ = render_observation((), think_prefill=config.think_prefill)
    least = len(tokenizer.encode(text))
    if least > config.max_observation_tokens:
        raise ConfigError(
            f"rollout.max_observation_tokens must be >= {least} (the tags of an observation without a document), got "
            f"{config.max_observation_tokens}"
        )
