"""A policy that generates with any Hugging Face causal LM: continuous batching, keys and values kept across turns.

Every tick is one forward over the new tokens alone, without padding: one token of each row that writes, and whole
prompts and observations of the rows that have something to read. Rows of finished episodes leave, new ones take their
place; rows whose episode waits for a search stay in the cache, and a prompt shared by a group is read once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from calibadv.errors import ConfigError, PolicyError
from calibadv.rollout.policies.kv_cache import PackedModel, verify
from calibadv.rollout.policies.kv_layout import make_layout
from calibadv.rollout.policies.kv_room import free_bytes, key_itemsize, row_bytes, rows_that_fit
from calibadv.rollout.policies.kv_rows import Rows, State
from calibadv.rollout.policies.kv_sampling import sample, uniforms
from calibadv.rollout.policies.stop_strings import StopFinder
from calibadv.rollout.policy import Completion, GenerationRequest, RequestQueue
from calibadv.rollout.tokenizer import Tokenizer, as_tokenizer, eos_ids_of

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
DEFAULT_ROWS = 64


class TransformersPolicy:
    """Writes turns with ``model``.

    ``model`` is a causal LM of the transformers library (an adapter wrapper around one is fine); ``tokenizer`` one of
    its tokenizers or a `calibadv.rollout.Tokenizer`. Between two calls of `generate` the weights may change.

    Args:
        max_rows: turns written at once; default: on a GPU what its free memory has room for at the longest context,
            elsewhere 64. Where memory does not suffice after all, half as many from then on.
        max_context: longest context in tokens; default: what the model's configuration says.
        cache_rows: episodes whose keys and values are held, those that wait for a search included; when more are
            needed, the one unused for longest is read again later. Default: a quarter more than ``max_rows``.
        max_tick_tokens: tokens in one forward; longer prompts and observations are read in pieces.
        gather: attend over copies of the rows that write together (`kv_layout`). Default: on a CPU, where that pays.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int | None = None,
        max_context: int | None = None,
        cache_rows: int | None = None,
        max_tick_tokens: int = 8192,
        gather: bool | None = None,
    ) -> None:
        self._adapts = max_rows is None and cache_rows is None and next(model.parameters()).is_cuda
        max_rows = DEFAULT_ROWS if max_rows is None else max_rows
        if max_rows < 1:
            raise ConfigError(f"max_rows must be >= 1, got {max_rows}")
        if cache_rows is not None and cache_rows < max_rows:
            raise ConfigError(f"cache_rows must be >= max_rows = {max_rows}, got {cache_rows}")
        if max_tick_tokens <= max_rows:
            raise ConfigError(f"max_tick_tokens must be > max_rows = {max_rows}, got {max_tick_tokens}")
        self.max_context = _max_context(model, max_context)
        self.max_rows = max_rows
        self.cache_rows = max_rows + -(-max_rows // 4) if cache_rows is None else cache_rows
        self.max_tick_tokens = max_tick_tokens
        self.tokenizer: Tokenizer = as_tokenizer(tokenizer)
        self.read_tokens = 0
        """Tokens of prompts and observations that went through the model so far."""
        self.written_tokens = 0
        """Tokens sampled so far."""
        self._packed = PackedModel(model, max_context=self.max_context, gather=gather)
        self._verified = False
        self._eos = np.array(
            sorted({*self.tokenizer.eos_ids, *eos_ids_of(getattr(model, "generation_config", None))}), dtype=np.int64
        )
        self._stops: dict[tuple[str, ...], StopFinder] = {}

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        """As `Policy.generate`."""
        if not self._verified:
            verify(self._packed)
            self._verified = True
        if self._adapts:
            self._adapt()
        rows = Rows(self.cache_rows)
        again: list[GenerationRequest] = []
        with self._packed:
            while True:
                rows.forget(requests.ended())
                running = rows.num_running
                room = self.max_rows - running
                new, again = again[:room], again[room:]
                new += requests.take(room - len(new), idle=running == 0 and not new)
                if not new and running == 0:
                    return
                rows.tick += 1
                for request in new:
                    if len(request.token_ids) >= self.max_context:
                        raise PolicyError(
                            f"episode {request.episode}: its context has {len(request.token_ids)} tokens, but the "
                            f"policy holds {self.max_context}; raise model.max_context or lower "
                            "rollout.max_context_tokens"
                        )
                    rows.place(request)
                if not self._packed.gather:  # then a gap costs as much as a row in use
                    self._copy(rows, rows.compaction())
                try:
                    completions = self._tick(rows)
                except torch.OutOfMemoryError:
                    if self.max_rows == 1:
                        raise
                    completions = None
                if completions is None:  # not above: there, the error still holds what the tick had made
                    # Draws belong to requests, so a turn that starts again is the same turn.
                    again = rows.running() + again
                    rows = self._with_half_the_rows()
                    continue
                yield from completions

    def _adapt(self) -> None:
        """Take as many rows as there is memory for now; weights and optimizer may have grown since the last time."""
        model, device = self._packed.model, self._packed.device
        config = model.config.get_text_config()
        needed = row_bytes(config, tokens=self.max_context, itemsize=key_itemsize(model, device))
        self._set_rows(rows_that_fit(free=free_bytes(device), row_bytes=needed))
        logger.debug("%d rows of up to %d tokens, %d bytes each", self.max_rows, self.max_context, needed)

    def _set_rows(self, max_rows: int) -> None:
        self.max_rows = min(max_rows, self.max_tick_tokens - 1)
        self.cache_rows = self.max_rows + -(-self.max_rows // 4)

    def _with_half_the_rows(self) -> Rows:
        """Nothing in the cache, and room for half as many as before; also in later calls."""
        self._adapts = False
        self._set_rows(self.max_rows // 2)
        self._packed.cache.clear()
        if self._packed.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(
            "Memory does not suffice for the keys and values of so many turns: going on with %d at once. Set "
            "model.max_rows, or model.max_context to what rollouts need",
            self.max_rows,
        )
        return Rows(self.cache_rows)

    def _tick(self, rows: Rows) -> list[Completion]:
        """One forward; returns the turns that ended with it."""
        device, cache = self._packed.device, self._packed.cache
        writing = rows.in_state(State.WRITING)
        reading, chunks = rows.chunks(self.max_tick_tokens - len(writing))
        sizes = [len(chunk) for chunk in chunks]
        layout = make_layout(
            writing_rows=writing, writing_positions=rows.length_R[writing], reading_rows=reading,
            reading_starts=rows.length_R[reading].tolist(), reading_sizes=sizes, device=device,
            gather=self._packed.gather,
        )  # fmt: skip
        ids_S = np.concatenate([rows.token_R[writing], *chunks]).astype(np.int64)
        ends = len(writing) + np.cumsum(sizes, dtype=np.int64) - 1  # the last token of each chunk
        rows.length_R[writing] += 1
        ready = rows.read(reading, chunks)
        pairs = rows.take_over(ready)
        last = np.concatenate([np.arange(len(writing)), ends[np.isin(reading, ready)]])
        cache.reserve(num_rows=rows.num_used, num_tokens=int(rows.length_R.max()) + 1)
        self.read_tokens += sum(sizes)
        with torch.inference_mode():
            logits = self._packed.logits(
                torch.from_numpy(ids_S).to(device), layout, last=torch.from_numpy(last).to(device)
            )
            sampling = [*writing.tolist(), *ready]
            self._copy(rows, pairs)
            if pairs:
                logits = logits[[*range(len(sampling)), *(sampling.index(leader) for leader, _ in pairs)]]
                sampling += [follower for _, follower in pairs]
            return self._sample(rows, np.array(sampling), logits) if sampling else []

    def _sample(self, rows: Rows, sampling_N: IntArray, logits: torch.Tensor) -> list[Completion]:
        counts_N = rows.count_R[sampling_N]
        ids_N, logprobs_N, bad_N = sample(
            logits,
            temperature=rows.temperature_R[sampling_N],
            top_p=rows.top_p_R[sampling_N],
            uniform=uniforms(rows.seed_R[sampling_N], counts_N),
        )
        if bad_N.any():
            request = rows.request[int(sampling_N[bad_N][0])]
            assert request is not None
            raise PolicyError(
                f"episode {request.episode}: the model's logits are not finite (NaN or infinity) after "
                f"{len(request.token_ids)} tokens of context; the weights are broken, go back to an earlier checkpoint"
            )
        self.written_tokens += len(ids_N)
        rows.write(sampling_N, ids_N, logprobs_N)
        eos_N = (ids_N[:, None] == self._eos).any(axis=1)
        full_N = counts_N + 1 >= rows.max_tokens_R[sampling_N]
        stop_N = self._find_stops(rows, sampling_N, ids_N)
        completions = []
        for i in np.flatnonzero(eos_N | full_N | stop_N).tolist():
            finish = "stop" if stop_N[i] else "eos" if eos_N[i] else "length"
            request, ids, logprobs = rows.end_turn(int(sampling_N[i]))
            text = self.tokenizer.decode(ids[:-1] if eos_N[i] else ids)
            completions.append(
                Completion(
                    episode=request.episode, token_ids=tuple(ids), logprobs=tuple(logprobs), text=text, finish=finish
                )
            )
        return completions

    def _find_stops(self, rows: Rows, sampling_N: IntArray, ids_N: IntArray) -> npt.NDArray[np.bool_]:
        stop_N = np.zeros(len(ids_N), dtype=bool)
        for kind, stop in enumerate(rows.stops):
            if not stop:
                continue
            finder = self._stops.setdefault(stop, StopFinder(stop, self.tokenizer))
            for i in np.flatnonzero(finder.candidates(ids_N) & (rows.stop_R[sampling_N] == kind)).tolist():
                row = int(sampling_N[i])
                count = int(rows.count_R[row])
                stop_N[i] = finder.found(rows.sampled[row, max(0, count - finder.window) : count].tolist())
        return stop_N

    def _copy(self, rows: Rows, pairs: list[tuple[int, int]]) -> None:
        if pairs:
            sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
            num_tokens = int(rows.length_R[targets].max())
            self._packed.cache.copy_rows(sources=sources, targets=targets, num_tokens=num_tokens)


def _max_context(model: Any, max_context: int | None) -> int:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    positions = getattr(config, "max_position_embeddings", None)
    if max_context is None:
        if positions is None:
            raise ConfigError("the model's configuration does not say how long a context may be; give max_context")
        return int(positions)
    if max_context < 2 or (positions is not None and max_context > positions):
        raise ConfigError(f"max_context must be in [2, {positions}] (the model's positions), got {max_context}")
    return max_context
