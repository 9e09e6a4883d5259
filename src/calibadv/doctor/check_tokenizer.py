"""Do the tags survive the tokenizer, and does the chat template leave what was said alone?"""

from __future__ import annotations

from calibadv.dialogue.prompt import PROMPTS, render_prompt
from calibadv.doctor.check import Check, Level
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.tokenizer import Tokenizer
from calibadv.rollout.tokenizer_checks import QUESTION as PREFIX_QUESTION
from calibadv.rollout.tokenizer_checks import TAGS, keeps_prefixes

EPISODE = (
    "<think>",
    " Who wrote it? I should look it up.</think>\n<search>author of the book</search>",
    '\n\n<information>Doc 1(Title: "The Book") by Ada Quill, 1923.</information>\n\n<think>',
    " It says Ada Quill.</think>\n<answer>Ada Quill</answer>",
)
"""Pieces of an episode, each encoded alone, as a rollout does."""


def check_tags(tokenizer: Tokenizer) -> Check:
    """Every tag must come back from its token ids, alone and inside of an episode."""
    counts = {tag: len(tokenizer.encode(tag)) for tag in TAGS}
    lost = [tag for tag in TAGS if tag not in tokenizer.decode(tokenizer.encode(f"so {tag} then"))]
    if lost:
        return Check(
            name="tags",
            level=Level.BLOCKER,
            summary=f"the tokenizer loses {', '.join(lost)}: no turn could ever end with a search or an answer",
            remedy="use another model, or add the tags to its tokenizer and resize its embeddings",
            facts={"tokens": counts, "lost": lost},
        )
    ids = [piece_id for piece in EPISODE for piece_id in tokenizer.encode(piece)]
    read = tokenizer.decode(ids)
    if read != "".join(EPISODE):
        return Check(
            name="tags",
            level=Level.WARNING,
            summary=f"the tokenizer changes text: an episode of {len(''.join(EPISODE))} characters comes back with "
            f"{len(read)} ({first_difference(''.join(EPISODE), read)}). Tags are kept",
            remedy="rollouts and training use token ids and stay exact; compare stored texts with care",
            facts={"tokens": counts},
        )
    odd = sum(counts.values()) > 8 * len(TAGS)
    return Check(
        name="tags",
        level=Level.WARNING if odd else Level.OK,
        summary=f"every tag survives; {min(counts.values())} to {max(counts.values())} tokens a tag"
        + (": this tokenizer splits them almost into characters" if odd else ""),
        remedy="expect a policy that slips in its tags; supervised fine-tuning (calibadv sft) helps" if odd else "",
        facts={"tokens": counts},
    )


def first_difference(wanted: str, got: str) -> str:
    """Where two texts part, with a few characters of both.

    >>> first_difference("so <think> it", "so  <think> it")
    "'<think> it' became ' <think> it'"
    """
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    return f"{wanted[at : at + 12]!r} became {got[at : at + 12]!r}"


def check_chat(tokenizer: Tokenizer, *, rollout: RolloutConfig) -> Check:
    """The prompt must hold the question as it is, and stay a prefix when the episode goes on."""
    question = "Which  river flows through Oslo (Norway)?"
    user = {"role": "user", "content": question}
    prompt = tokenizer.chat([user])
    if prompt is None:
        return Check(name="chat template", summary="none: prompts are plain text", facts={"template": False})
    full = render_prompt(
        question,
        template=PROMPTS[rollout.prompt],
        chat=lambda messages: tokenizer.chat(messages) or "",
        think_prefill=rollout.think_prefill,
    )  # raises ConfigError for a template that opens the thinking on its own where that is not wanted
    if question not in full:
        return Check(
            name="chat template",
            level=Level.BLOCKER,
            summary="the chat template leaves the question out, or changes it",
            remedy='set model.chat_template = "none", or mend the template of the tokenizer',
        )
    keeps = keeps_prefixes(tokenizer, prompt=tokenizer.chat([{"role": "user", "content": PREFIX_QUESTION}]) or "")
    return Check(
        name="chat template",
        level=Level.OK if keeps else Level.WARNING,
        summary="earlier messages stay as they were"
        if keeps
        else "the template rewrites earlier messages (it is not prefix-preserving), as some do to drop old thoughts",
        remedy=""
        if keeps
        else "nothing to do for rollouts, training and evaluation: they render the prompt once and only append token "
        "ids; do not rebuild episodes from messages elsewhere",
        facts={"template": True, "prefix_preserving": keeps, "prompt_tokens": len(tokenizer.encode(full))},
    )
