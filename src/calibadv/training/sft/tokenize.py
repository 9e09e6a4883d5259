"""Demonstrations to token ids and loss masks, laid out exactly as a rollout lays out an episode.

The prompt is rendered for the model's chat template and encoded once; every turn and every observation is encoded
alone. The loss is on what the model writes: prompt, observations and think prefill are masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calibadv.errors import DataError
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import search_observation
from calibadv.rollout.prompts import make_prompts
from calibadv.rollout.tokenizer import Tokenizer
from calibadv.tags import THINK_OPEN
from calibadv.trajectory import Trajectory

IGNORED = -100
"""Label of a token without loss, as transformers has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One demonstration in tokens."""

    token_ids: tuple[int, ...]
    mask: tuple[int, ...]  # [num_tokens] 1 on what the model writes

    @property
    def num_written(self) -> int:
        """Tokens with a loss."""
        return sum(self.mask)


def make_example(trajectory: Trajectory, *, tokenizer: Tokenizer, config: RolloutConfig) -> Example:
    """The demonstration as this model would have lived it."""
    (prompt,) = make_prompts([trajectory.question], num_rollouts=1, tokenizer=tokenizer, config=config)
    token_ids = list(prompt.token_ids)
    mask = [0] * len(token_ids)
    for turn in trajectory.turns:
        written = tokenizer.encode(written_text(turn.text, prefilled=config.think_prefill))
        token_ids += written
        mask += [1] * len(written)
        if turn.observation:
            seen = search_observation(turn.documents, tokenizer=tokenizer, config=config).token_ids
            token_ids += seen
            mask += [0] * len(seen)
    return Example(token_ids=tuple(token_ids), mask=tuple(mask))


def written_text(text: str, *, prefilled: bool) -> str:
    """A turn's text with or without its opening think tag.

    >>> written_text("<think>a</think>", prefilled=True), written_text("a</think>", prefilled=False)
    ('a</think>', '<think>a</think>')
    """
    bare = text.lstrip().removeprefix(THINK_OPEN) if text.lstrip().startswith(THINK_OPEN) else text
    return bare if prefilled else THINK_OPEN + bare


def make_examples(
    trajectories: Iterable[Trajectory], *, tokenizer: Tokenizer, config: RolloutConfig, max_tokens: int
) -> tuple[list[Example], int]:
    """All demonstrations that fit, and how many did not."""
    examples = [make_example(t, tokenizer=tokenizer, config=config) for t in trajectories]
    fitting = [example for example in examples if len(example.token_ids) <= max_tokens]
    if not fitting:
        raise DataError(
            f"none of the {len(examples)} demonstrations has {max_tokens} tokens or less: raise sft.max_tokens, or "
            "lower rollout.max_observation_tokens"
        )
    return fitting, len(examples) - len(fitting)


def collate(examples: Sequence[Example], *, pad_id: int) -> dict[str, Any]:
    """Examples as right-padded tensors: ``input_ids``, ``attention_mask`` and ``labels``."""
    length = max(len(example.token_ids) for example in examples)
    rows = [(example.token_ids, example.mask, length - len(example.token_ids)) for example in examples]
    return {
        "input_ids": torch.tensor([[*ids, *[pad_id] * padding] for ids, _, padding in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * padding for ids, _, padding in rows]),
        "labels": torch.tensor(
            [
                [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)] + [IGNORED] * padding
                for ids, mask, padding in rows
            ]
        ),
    }
