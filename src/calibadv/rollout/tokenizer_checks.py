"""What a tokenizer and its chat template must be able to do before anybody plays with them.

Tags may be one token or several; what counts is that text with tags comes back from its ids with the same tags.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from calibadv.config_class import show
from calibadv.errors import ConfigError
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.tokenizer import Tokenizer, with_template_kwargs
from calibadv.tags import THINK_CLOSE, THINK_OPEN

logger = logging.getLogger(__name__)

TAGS = tuple(f"<{slash}{role}>" for role in ("think", "search", "information", "answer") for slash in ("", "/"))
QUESTION = "Which town lies by the river?"
ASSISTANT = "<think>It may be in a book.</think><search>town by the river</search>"


def check_tokenizer(tokenizer: Tokenizer, *, name: str, rollout: RolloutConfig | None = None) -> None:
    """Refuse a tokenizer or chat template that would spoil every rollout; ``name`` is the model in messages.

    ``rollout``: how prompts will be rendered; what looks unintended there causes a warning.
    """
    check_tags(tokenizer, name=f"model.path {name}")
    if rollout is not None:
        for problem in rendering_problems(tokenizer, rollout=rollout):
            logger.warning("%s", problem)
        tokenizer = with_template_kwargs(tokenizer, rollout.chat_template_kwargs)
    check_template(tokenizer, name=name)


def rendering_problems(tokenizer: Tokenizer, *, rollout: RolloutConfig) -> Iterator[str]:
    """What looks unintended in the rendering of prompts, each with a remedy.

    Raises:
        ConfigError: The chat template would ignore one of ``rollout.chat_template_kwargs``.
    """
    message, given = [{"role": "user", "content": QUESTION}], rollout.chat_template_kwargs
    prompt = with_template_kwargs(tokenizer, given).chat(message)
    for name in given:
        others = {other: value for other, value in given.items() if other != name}
        if with_template_kwargs(tokenizer, others).chat(message) == prompt:
            yield (
                f"rollout.chat_template_kwargs: {name} = {show(given[name])} changes nothing in a prompt: it is what "
                "the template does anyway, or concerns other messages"
            )
    if prompt is not None and prompt.rstrip().endswith(THINK_CLOSE):
        yield (
            f"the chat template ends prompts with {THINK_CLOSE}, a thought that is over before the policy has thought: "
            "if it has a switch for that, set it, such as rollout.chat_template_kwargs = {enable_thinking = true}"
        )


def check_tags(tokenizer: Tokenizer, *, name: str) -> None:
    """Text with tags must come back from its ids with the same tags."""
    for tag in TAGS:
        text = f"a town {tag} by the river\n\n{tag}a{tag}"
        back = tokenizer.decode(tokenizer.encode(text))
        if back.count(tag) != 3:
            raise ConfigError(
                f"{name}: its tokenizer does not keep the tag {tag}: {text!r} comes back as {back!r}. Add "
                "the tags to it as tokens and train their embeddings, or use another model"
            )


def check_template(tokenizer: Tokenizer, *, name: str) -> None:
    """The chat template must show the question once; one that rewrites earlier turns causes a warning."""
    message = {"role": "user", "content": QUESTION}
    prompt = tokenizer.chat([message])
    if prompt is None:
        return
    if prompt.count(QUESTION) != 1:
        raise ConfigError(
            f"model.path {name}: its chat template shows the question {prompt.count(QUESTION)} times instead of once; "
            'set model.chat_template = "none", or repair the template'
        )
    if not keeps_prefixes(tokenizer, prompt=prompt):
        logger.warning(
            "The chat template of %s changes earlier turns when it renders a conversation again (many drop their "
            "thinking). Rollouts are not affected: a context is rendered once and then only grows by token ids. "
            "Programs that render whole conversations will see other text than was trained.",
            name,
        )


def keeps_prefixes(tokenizer: Tokenizer, *, prompt: str) -> bool:
    """Whether the template renders a longer conversation as ``prompt``, the model's turn, and more."""
    message = {"role": "user", "content": QUESTION}
    try:
        longer = tokenizer.chat([message, {"role": "assistant", "content": ASSISTANT}, message])
    except ConfigError:
        return False
    written = ASSISTANT.removeprefix(THINK_OPEN) if prompt.rstrip().endswith(THINK_OPEN) else ASSISTANT
    return longer is not None and longer.startswith(prompt + written)
