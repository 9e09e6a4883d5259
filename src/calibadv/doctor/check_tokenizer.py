"""Do the tags survive the tokenizer, can it spell the questions, and does the chat template keep what was said?"""

from __future__ import annotations

from collections.abc import Sequence

from calibadv.dialogue.prompt import prompt_template, render_prompt
from calibadv.doctor.check import Check, Level
from calibadv.rollout import tokenizer_checks
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.tokenizer import Tokenizer, with_template_kwargs
from calibadv.rollout.tokenizer_checks import QUESTION, TAGS, keeps_prefixes, rendering_problems
from calibadv.trajectory import Question

MANY_TOKENS = 8
"""For a tag, on average: nearly one a character."""
READ = 200
"""Questions that are encoded and decoded."""


def check_tags(tokenizer: Tokenizer, *, questions: Sequence[Question] = ()) -> Check:
    """Tags and the words of questions must come back from their token ids; spaces may differ, ids are what is kept."""
    tokenizer_checks.check_tags(tokenizer, name="the tokenizer")
    counts = {tag: len(tokenizer.encode(tag)) for tag in TAGS}
    asked = [question.text for question in questions[:READ]]
    changed = [text for text in asked if squeezed(tokenizer.decode(tokenizer.encode(text))) != squeezed(text)]
    odd = sum(counts.values()) > MANY_TOKENS * len(TAGS)
    summary = f"every tag survives; {min(counts.values())} to {max(counts.values())} tokens a tag"
    remedies = []
    if odd:
        summary += ": this tokenizer splits them almost into characters"
        remedies.append("expect a policy that slips in its tags; supervised fine-tuning (calibadv sft) helps")
    if changed:
        summary += f"; the words of {len(changed)} of {len(asked)} questions change, such as {changed[0]!r}"
        remedies.append("the policy reads other words than were asked: take a model whose tokenizer knows them")
    return Check(
        name="tags",
        level=Level.WARNING if remedies else Level.OK,
        summary=summary,
        remedy="; ".join(remedies),
        facts={"tokens": counts, "changed": len(changed)},
    )


def squeezed(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


def check_chat(tokenizer: Tokenizer, *, rollout: RolloutConfig) -> Check:
    """The prompt must hold the question as it is, and stay a prefix when the episode continues."""
    odd = list(rendering_problems(tokenizer, rollout=rollout))
    tokenizer = with_template_kwargs(tokenizer, rollout.chat_template_kwargs)
    prompt = tokenizer.chat([{"role": "user", "content": QUESTION}])
    if prompt is None:
        return Check(name="chat template", summary="none: prompts are plain text", facts={"template": False})
    full = render_prompt(
        QUESTION,
        template=prompt_template(rollout.prompt),
        chat=lambda messages: tokenizer.chat(messages) or "",
        think_prefill=rollout.think_prefill,
    )  # raises ConfigError for a template that opens the thinking on its own where that is not wanted
    if QUESTION not in full:
        return Check(
            name="chat template",
            level=Level.BLOCKER,
            summary="the chat template leaves the question out, or changes it",
            remedy='set model.chat_template = "none", or fix the template of the tokenizer',
        )
    keeps = keeps_prefixes(tokenizer, prompt=prompt)
    if odd:
        return Check(name="chat template", level=Level.WARNING, summary="; ".join(odd), facts={"template": True})
    return Check(
        name="chat template",
        level=Level.OK if keeps else Level.WARNING,
        summary="earlier messages stay as they were"
        if keeps
        else "the template rewrites earlier messages (it is not prefix-preserving), as some do to drop old thoughts",
        remedy="nothing to do for rollouts, training and evaluation: they render the prompt once and only append token "
        "ids; do not rebuild episodes from messages elsewhere",
        facts={"template": True, "prefix_preserving": keeps, "prompt_tokens": len(tokenizer.encode(full))},
    )
