"""Prompts: one user message with the question, through the model's chat template where it has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calibadv.config_class import FILE
from calibadv.dialogue.sanitize import neutralise
from calibadv.errors import ConfigError
from calibadv.tags import THINK_OPEN

ChatTemplate = Callable[[list[dict[str, str]]], str]
"""Messages to text, the generation prompt included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """The wording of the user message."""

    name: str
    text: str
    """Holds ``{question}`` exactly once; other braces are literal."""

    def __post_init__(self) -> None:
        count = self.text.count("{question}")
        if count != 1:
            raise ConfigError(f"prompt {self.name!r}: the text must hold {{question}} exactly once, got {count} times")


SEARCH_PROMPT = PromptTemplate(
    name="search",
    text=(
        "Find the answer to the question below with the help of a search engine. Always reason first, inside <think> "
        "and </think>, at the start and each time new documents arrive. When something is missing, write one query "
        "inside <search> and </search>; the best documents are then shown to you inside <information> and "
        "</information>. You may search several times. As soon as you know enough, write only the answer, in a few "
        "words and without explanation, inside <answer> and </answer>.\n\nQuestion: {question}\n"
    ),
)
QUESTION_ONLY = PromptTemplate(name="question", text="{question}")
"""For policies that were already taught the tags."""

PROMPTS: dict[str, PromptTemplate] = {p.name: p for p in (SEARCH_PROMPT, QUESTION_ONLY)}
FROM_FILES: dict[str, PromptTemplate] = {}
"""What ``file:PATH`` said when it was read last."""


def prompt_template(name: str, *, read_again: bool = False) -> PromptTemplate:
    """The built-in template of this name, or the text of ``file:PATH``.

    A file is read once, so that its text stays the same in all batches of a run; ``read_again`` is for its start.

    Raises:
        ConfigError: No such name or file, or a text that does not hold ``{question}`` once.
    """
    if not name.startswith(FILE):
        if name not in PROMPTS:
            raise ConfigError(f'rollout.prompt must be one of {", ".join(PROMPTS)}, or "file:PATH", got {name!r}')
        return PROMPTS[name]
    if read_again or name not in FROM_FILES:
        try:
            FROM_FILES[name] = PromptTemplate(name=name, text=Path(name.removeprefix(FILE)).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f'rollout.prompt "{name}": no such file; a relative path starts from the config'
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'rollout.prompt "{name}" cannot be read as UTF-8 text ({error})') from error
        except ConfigError as error:
            raise ConfigError(f"rollout.{error}") from None
    return FROM_FILES[name]


def render_prompt(
    question: str,
    *,
    template: PromptTemplate = SEARCH_PROMPT,
    chat: ChatTemplate | None = None,
    think_prefill: bool = True,
) -> str:
    """The text before the first turn.

    Args:
        question: Its text; tags in it are made harmless.
        template: The wording of the user message.
        chat: The model's chat template; None: the message alone.
        think_prefill: End the prompt with the opening think tag, unless the chat template does already.

    Returns:
        The prompt.

    Raises:
        ConfigError: No think prefill is wanted, and the chat template opens the thinking itself.

    >>> render_prompt("Who wrote <answer>it</answer>?", template=QUESTION_ONLY)
    'Who wrote (answer>it(/answer>?<think>'
    """
    message = template.text.replace("{question}", neutralise(question))
    prompt = message if chat is None else chat([{"role": "user", "content": message}])
    opened = prompt.rstrip().endswith(THINK_OPEN)  # some chat templates open the thinking themselves
    if opened and not think_prefill:
        raise ConfigError(
            "rollout.think_prefill must be true: the model's chat template ends with <think> on its own; got false"
        )
    return prompt + THINK_OPEN if think_prefill and not opened else prompt
