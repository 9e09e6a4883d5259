"""A policy that reads its turns from a script: the shipped fake for tests and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from calibadv.rollout.policy import Completion, GenerationRequest, RequestQueue, SamplingParams
from calibadv.rollout.tokenizer import Tokenizer

Script = Sequence[Sequence[str]] | Callable[[int, int], str]


class ScriptedPolicy:
    """Writes given texts.

    ``script`` holds the texts per episode and turn (episodes count question by question, rollout by rollout), or is a
    function ``(episode, turn) -> text``. A script that is used up writes nothing. Each text is cut where a real policy
    would have ended the turn: after the first stop string, or at the token limit. Log-probabilities are 0.
    """

    def __init__(self, script: Script, *, tokenizer: Tokenizer, max_rows: int = 64, ticks_per_turn: int = 1) -> None:
        self._script = script
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._ticks_per_turn = ticks_per_turn

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        turns: dict[int, int] = {}
        running: list[tuple[int, Completion]] = []  # (tick at which it is done, completion)
        tick = 0
        while True:
            gone = set(requests.ended())
            running = [entry for entry in running if entry[1].episode not in gone]
            new = requests.take(self._max_rows - len(running), idle=not running)
            if not new and not running:
                return
            tick += 1
            for request in new:
                turn = turns.get(request.episode, 0)
                turns[request.episode] = turn + 1
                running.append((tick + self._ticks_per_turn - 1, self._write(request, turn=turn)))
            done = [completion for due, completion in running if due <= tick]
            running = [entry for entry in running if entry[0] > tick]
            yield from done

    def _write(self, request: GenerationRequest, *, turn: int) -> Completion:
        text, finish = cut(self._text(request.episode, turn), request.params)
        ids = self._tokenizer.encode(text)
        if len(ids) > request.params.max_tokens or (finish == "length" and len(ids) == request.params.max_tokens):
            ids, finish = ids[: request.params.max_tokens], "length"
            text = self._tokenizer.decode(ids)
        elif finish == "length":
            finish = "eos"
        return Completion(
            episode=request.episode, token_ids=tuple(ids), logprobs=(0.0,) * len(ids), text=text, finish=finish
        )

    def _text(self, episode: int, turn: int) -> str:
        if callable(self._script):
            return self._script(episode, turn)
        turns = self._script[episode] if episode < len(self._script) else ()
        return turns[turn] if turn < len(turns) else ""


def cut(text: str, params: SamplingParams) -> tuple[str, str]:
    """The text up to the end of its first stop string, with the reason it ends there ("length" when there is none).

    >>> cut("<search>a</search> more", SamplingParams())
    ('<search>a</search>', 'stop')
    """
    ends = [text.index(stop) + len(stop) for stop in params.stop if stop in text]
    return (text[: min(ends)], "stop") if ends else (text, "length")
