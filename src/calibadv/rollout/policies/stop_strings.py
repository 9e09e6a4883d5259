"""Where a turn ends: with the token that completes a stop string, with an end-of-sequence token, or at the limit.

One definition for every policy. The ids of a turn are those that were sampled, up to and including the token that ends
it; what that token holds beyond the stop string stays, for nothing is ever cut inside a token or encoded again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from calibadv.errors import PolicyError
from calibadv.rollout.policy import Completion, GenerationRequest
from calibadv.rollout.tokenizer import Tokenizer

IntArray = npt.NDArray[np.int64]


class StopFinder:
    """Finds the token that completes a stop string; each token of the vocabulary is decoded once at most."""

    def __init__(self, stop: tuple[str, ...], tokenizer: Tokenizer) -> None:
        self._stop = stop
        self._tokenizer = tokenizer
        self._last_chars = {text[-1] for text in stop}
        self._may_end = np.full(1024, -1, dtype=np.int8)  # by token id; -1: not looked at yet
        self.window = max((len(text.encode()) for text in stop), default=0) + 4
        """Tokens that surely hold a stop string which the last of them completes."""

    def candidates(self, ids_N: IntArray) -> npt.NDArray[np.bool_]:
        """Which tokens hold the last character of a stop string."""
        if ids_N.max() >= len(self._may_end):
            longer = np.full(max(int(ids_N.max()) + 1, 2 * len(self._may_end)), -1, dtype=np.int8)
            longer[: len(self._may_end)] = self._may_end
            self._may_end = longer
        flags_N = self._may_end[ids_N]
        if (flags_N < 0).any():
            for token in set(ids_N[flags_N < 0].tolist()):
                self._may_end[token] = not self._last_chars.isdisjoint(self._tokenizer.decode([token]))
            flags_N = self._may_end[ids_N]
        return flags_N > 0

    def found(self, tail: list[int]) -> bool:
        """Whether the text of ``tail`` holds a stop string."""
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in self._stop)

    def first(self, ids: Sequence[int]) -> int | None:
        """Number of tokens up to the one that completes the first stop string."""
        if not self._stop or not ids:
            return None
        for index in np.flatnonzero(self.candidates(np.asarray(ids, dtype=np.int64))).tolist():
            if self.found(list(ids[max(0, index + 1 - self.window) : index + 1])):
                return int(index) + 1
        return None


class TurnReader:
    """Makes completions of token ids sampled by another program, cut where `TransformersPolicy` would have stopped."""

    def __init__(self, tokenizer: Tokenizer, *, eos_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self._finders: dict[tuple[str, ...], StopFinder] = {}

    def read(
        self, request: GenerationRequest, *, token_ids: Sequence[int], logprobs: Sequence[float], said_eos: bool = False
    ) -> Completion:
        """The completion of ``request``. ``said_eos``: the program ended the turn with an end token of its own."""
        who = f"episode {request.episode}"
        if not token_ids or len(token_ids) != len(logprobs):
            raise PolicyError(
                f"{who}: the engine gave {len(token_ids)} token ids and {len(logprobs)} log-probabilities"
            )
        finder = self._finders.setdefault(request.params.stop, StopFinder(request.params.stop, self.tokenizer))
        stop = finder.first(token_ids)
        eos = next((n for n, token in enumerate(token_ids, start=1) if token in self.eos_ids), None)
        eos = len(token_ids) if eos is None and said_eos else eos
        limit = request.params.max_tokens if len(token_ids) >= request.params.max_tokens else None
        ends = [(end, finish) for end, finish in ((stop, "stop"), (eos, "eos"), (limit, "length")) if end is not None]
        if not ends:
            raise PolicyError(
                f"{who}: the engine ended the turn after {len(token_ids)} tokens without a stop string, an end token "
                f"or its limit of {request.params.max_tokens}; it may have been stopped, or its context be too small"
            )
        end, finish = min(ends, key=lambda pair: pair[0])
        ids = tuple(int(token) for token in token_ids[:end])
        kept = tuple(float(logprob) for logprob in logprobs[:end])
        if not all(map(math.isfinite, kept)):
            raise PolicyError(
                f"{who}: the engine gave log-probabilities that are not finite; the weights are broken, go back to an "
                "earlier checkpoint"
            )
        text = self.tokenizer.decode(ids[:-1] if finish == "eos" else ids)
        return Completion(episode=request.episode, token_ids=ids, logprobs=kept, text=text, finish=finish)
