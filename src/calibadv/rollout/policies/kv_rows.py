"""The rows of a `TransformersPolicy`: which episode each cache row holds, what it does, what it has written.

Everything that changes every tick is a column over all rows, so that a tick costs a few array operations however many
rows there are; Python loops only touch rows that begin or end a turn. Suffix R: all rows.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from calibadv.rollout.policy import GenerationRequest

IntArray = npt.NDArray[np.int64]


class State(IntEnum):
    """What a row does."""

    FREE = 0
    KEPT = 1
    """Its turn is over; keys and values stay for the episode's next turn."""
    READING = 2
    FOLLOWING = 3
    """Its prompt is being read by another row, whose keys and values it will take over."""
    WRITING = 4


class Rows:
    """The table of rows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tick = 0
        self.state_R = np.zeros(limit, dtype=np.int64)
        self.length_R = np.zeros(limit, dtype=np.int64)  # tokens in the cache
        self.token_R = np.zeros(limit, dtype=np.int64)  # sampled last, not yet in the cache
        self.count_R = np.zeros(limit, dtype=np.int64)  # tokens sampled in this turn
        self.max_tokens_R = np.zeros(limit, dtype=np.int64)
        self.seed_R = np.zeros(limit, dtype=np.uint64)
        self.temperature_R = np.ones(limit)
        self.top_p_R = np.ones(limit)
        self.stop_R = np.zeros(limit, dtype=np.int64)  # index into `stops`
        self.stops: list[tuple[str, ...]] = []
        """The different sets of stop strings."""
        self.sampled = np.zeros((limit, 64), dtype=np.int64)  # [R, tokens of the turn]
        self.logprobs = np.zeros((limit, 64), dtype=np.float32)
        self.request: list[GenerationRequest | None] = [None] * limit
        self.unread: list[tuple[int, ...]] = [()] * limit
        self.held: list[tuple[int, ...]] = [()] * limit  # ids in the cache, known while KEPT
        self.leader: list[int] = [-1] * limit
        self._used_R = np.zeros(limit, dtype=np.int64)  # tick of the last use
        self._row_of: dict[int, int] = {}
        self._openers: dict[tuple[int, ...], int] = {}  # prompts that a row is about to begin reading

    def in_state(self, state: State) -> IntArray:
        """Rows in a state, ascending."""
        return np.flatnonzero(self.state_R == state)

    @property
    def num_used(self) -> int:
        """Rows up to the last one that holds something."""
        return int(np.flatnonzero(self.state_R)[-1]) + 1 if self.state_R.any() else 0

    @property
    def num_running(self) -> int:
        return int((self.state_R > State.KEPT).sum())

    def running(self) -> list[GenerationRequest]:
        """The requests whose turns are not written yet."""
        found = [self.request[row] for row in np.flatnonzero(self.state_R > State.KEPT).tolist()]
        return [request for request in found if request is not None]

    def place(self, request: GenerationRequest) -> None:
        """Give a request a row: the one that holds its episode, else a free one, else the one unused for longest."""
        context = tuple(request.token_ids)
        row = self._row_of.get(request.episode, -1)
        if row >= 0 and (context[: self.length_R[row]] != self.held[row] or len(context) <= len(self.held[row])):
            self._free(row)
            row = -1
        if row < 0:
            row = self._find_row()
            self._row_of[request.episode] = row
            self.length_R[row] = 0
        self.state_R[row] = State.READING
        self.request[row], self.unread[row] = request, context[self.length_R[row] :]
        self.count_R[row] = 0
        self.max_tokens_R[row] = request.params.max_tokens
        self.seed_R[row] = request.seed & 0xFFFFFFFFFFFFFFFF
        self.temperature_R[row] = request.params.temperature
        self.top_p_R[row] = request.params.top_p
        if request.params.stop not in self.stops:
            self.stops.append(request.params.stop)
        self.stop_R[row] = self.stops.index(request.params.stop)
        self._used_R[row] = self.tick
        if self.length_R[row] == 0:
            leader = self._openers.setdefault(context, row)
            if leader != row:
                self.state_R[row], self.leader[row] = State.FOLLOWING, leader

    def forget(self, episodes: list[int]) -> None:
        """Free the rows of episodes that ended."""
        for episode in episodes:
            row = self._row_of.get(episode, -1)
            if row >= 0:
                self._free(row)

    def chunks(self, budget: int) -> tuple[list[int], list[tuple[int, ...]]]:
        """Rows that read in this tick and what they read, at most ``budget`` tokens together; the oldest first."""
        reading = self.in_state(State.READING)
        rows, chunks = [], []
        for row in reading[np.argsort(self._used_R[reading], kind="stable")].tolist():
            if budget <= 0:
                break
            rows.append(row)
            chunks.append(self.unread[row][:budget])
            budget -= len(chunks[-1])
            if self.length_R[row] == 0:
                self._openers.pop(self.unread[row], None)  # from now on nobody can follow it
        return rows, chunks

    def read(self, rows: list[int], chunks: list[tuple[int, ...]]) -> list[int]:
        """Note what was read. Returns the rows that have read everything and now write."""
        done = []
        for row, chunk in zip(rows, chunks, strict=True):
            self.length_R[row] += len(chunk)
            self.unread[row] = self.unread[row][len(chunk) :]
            if not self.unread[row]:
                self.state_R[row] = State.WRITING
                done.append(row)
        return done

    def take_over(self, leaders: list[int]) -> list[tuple[int, int]]:
        """(leader, follower) for every row that waits for one of ``leaders``; the followers now write."""
        following = self.in_state(State.FOLLOWING).tolist()
        pairs = [(leader, row) for leader in leaders for row in following if self.leader[row] == leader]
        for leader, row in pairs:
            self.length_R[row] = self.length_R[leader]
            self.state_R[row], self.leader[row], self.unread[row] = State.WRITING, -1, ()
        return pairs

    def write(self, rows_N: IntArray, ids_N: IntArray, logprobs_N: npt.NDArray[np.float32]) -> None:
        """Note one sampled token per row."""
        counts_N = self.count_R[rows_N]
        if counts_N.max() >= self.sampled.shape[1]:
            self.sampled = np.concatenate([self.sampled, np.zeros_like(self.sampled)], axis=1)
            self.logprobs = np.concatenate([self.logprobs, np.zeros_like(self.logprobs)], axis=1)
        self.sampled[rows_N, counts_N] = ids_N
        self.logprobs[rows_N, counts_N] = logprobs_N
        self.token_R[rows_N] = ids_N
        self.count_R[rows_N] = counts_N + 1

    def end_turn(self, row: int) -> tuple[GenerationRequest, list[int], list[float]]:
        """The turn is over; the row is kept for the next. Returns its request, ids and log-probabilities."""
        request = self.request[row]
        assert request is not None
        count = int(self.count_R[row])
        ids: list[int] = self.sampled[row, :count].tolist()
        self.state_R[row] = State.KEPT
        self.held[row] = (tuple(request.token_ids) + tuple(ids))[: self.length_R[row]]
        self._used_R[row] = self.tick
        return request, ids, self.logprobs[row, :count].tolist()

    def compaction(self) -> list[tuple[int, int]]:
        """Moves (from, to) that close gaps, once a good part of the rows up to the last one in use is free.

        Attention runs over all rows up to the last; a gap costs as much as a row in use.
        """
        used = np.flatnonzero(self.state_R)
        if not len(used) or used[-1] + 1 - len(used) <= max(3, (used[-1] + 1) // 5):
            return []
        targets = [row for row in range(len(used)) if self.state_R[row] == State.FREE]
        sources = used[used >= len(used)].tolist()
        moves = list(zip(sources, targets, strict=True))
        moved = dict(moves)
        for source, target in moves:
            for column in (
                self.state_R, self.length_R, self.token_R, self.count_R, self.max_tokens_R, self.seed_R,
                self.temperature_R, self.top_p_R, self.stop_R, self._used_R, self.sampled, self.logprobs,
            ):  # fmt: skip
                column[target] = column[source]
            for entries in (self.request, self.unread, self.held, self.leader):
                entries[target] = entries[source]
            self.state_R[source] = State.FREE
        self.leader = [moved.get(row, row) for row in self.leader]
        self._row_of = {episode: moved.get(row, row) for episode, row in self._row_of.items()}
        self._openers = {ids: moved.get(row, row) for ids, row in self._openers.items()}
        return moves

    def _find_row(self) -> int:
        free = self.in_state(State.FREE)
        if len(free):
            return int(free[0])
        kept = self.in_state(State.KEPT)
        row = int(kept[np.argmin(self._used_R[kept])])
        self._free(row)
        return row

    def _free(self, row: int) -> None:
        request = self.request[row]
        assert request is not None
        self._row_of.pop(request.episode, None)
        for follower in self.in_state(State.FOLLOWING).tolist():
            if self.leader[follower] == row:
                self.state_R[follower], self.leader[follower] = State.READING, -1
        for ids in [ids for ids, opener in self._openers.items() if opener == row]:
            del self._openers[ids]
        self.state_R[row] = State.FREE
        self.length_R[row] = 0
        self.request[row], self.unread[row], self.held[row] = None, (), ()
