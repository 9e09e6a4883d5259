"""A policy that asks any OpenAI-compatible server, turn by turn with stop sequences. For evaluation only.

What is sent, by ``api`` (docs/engines.md has an example of each): "completions", the context as text; "chat", the
question as user message, every turn as assistant message and every observation as user message; "chat-continue", the
question and one assistant message with the trajectory so far, to be continued.

Such a server returns text: token ids of turns are the tokenizer's encoding of it, and there are no log-probabilities.
It also leaves stop strings out and does not say which one it met: the tag that is still open is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from calibadv.errors import ConfigError
from calibadv.io.retry import Retry
from calibadv.rollout.policies.async_policy import AsynchronousPolicy
from calibadv.rollout.policies.http_client import DEFAULT_RETRY, ServerCalls, ServerError, first_choice
from calibadv.rollout.policies.text_tokenizer import TextTokenizer
from calibadv.rollout.policy import Completion, GenerationRequest, RequestQueue
from calibadv.tags import THINK_OPEN

logger = logging.getLogger(__name__)

DEFAULT_ROWS = 16
NO_SUCH_ENDPOINT = frozenset({400, 404, 405, 415, 422, 501})
OPTIONAL = ("stop", "seed", "top_p", "temperature", "max_tokens")
"""Parameters that some servers refuse; such a one is left out from then on."""
REFUSALS = ("unsupported", "not supported", "does not support", "unknown", "unrecognized", "unexpected", "extra")


class OpenAIPolicy(AsynchronousPolicy):
    """Writes turns with ``model`` at ``url``. ``usage`` counts requests, and tokens as the server counts them."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        tokenizer: TextTokenizer | None = None,
        api: str = "auto",
        max_rows: int = DEFAULT_ROWS,
        max_context: int | None = None,
        key: str | None = None,
        timeout_s: float = 600.0,
        retry: Retry = DEFAULT_RETRY,
    ) -> None:
        super().__init__(max_rows=max_rows, max_context=max_context)
        self.tokenizer = tokenizer or TextTokenizer()
        self.model = model
        self.usage = dict.fromkeys(("requests", "prompt_tokens", "completion_tokens", "cached_tokens"), 0)
        self._turns: dict[int, list[tuple[int, int]]] = {}  # per episode, where its turns stand in the context
        self._left_out: set[str] = set()
        try:
            self._calls, self.api = self._loop.run(
                self._open(ServerCalls(url, key=key, timeout_s=timeout_s, retry=retry), api=api)
            ).result()
        except BaseException:
            self._loop.close()
            raise
        self.tokenizer.as_messages = self.api != "completions"

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        """As `Policy.generate`."""
        self._turns.clear()
        return super().generate(requests)

    async def write(self, request: GenerationRequest) -> Completion:
        """One turn."""
        choice = await self._ask(request)
        text = self._strip_prefill(reply_text(choice, api=self.api), request)
        text, finish = end_turn(
            text, stop=request.params.stop, reason=choice.get("finish_reason"), met=choice.get("stop_reason")
        )
        ids = tuple(self.tokenizer.encode(text))
        start = len(request.token_ids)
        self._turns.setdefault(request.episode, []).append((start, start + len(ids)))
        return Completion(episode=request.episode, token_ids=ids, logprobs=(), text=text, finish=finish)

    async def shut_down(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def _ask(self, request: GenerationRequest) -> dict[str, Any]:
        asked = request.params
        settings = {
            "model": self.model, "max_tokens": asked.max_tokens, "temperature": asked.temperature,
            "top_p": asked.top_p, "seed": request.seed >> 33, "stop": list(asked.stop),
        }  # fmt: skip
        path, content = self._content(request)
        while True:
            body = {name: value for name, value in settings.items() if name not in self._left_out} | content
            if "max_tokens" in self._left_out:
                body["max_completion_tokens"] = asked.max_tokens
            try:
                answer = await self._calls.post(path, body)
            except ServerError as error:
                if not self._leave_out(error):
                    raise
                continue
            return self._choice(answer, path=path)

    def _leave_out(self, error: ServerError) -> bool:
        """Whether the refusal was about a parameter that can be left out (it is, from now on)."""
        detail = error.detail.lower()
        if error.status not in (400, 422) or not any(word in detail for word in REFUSALS):
            return False
        name = next((name for name in OPTIONAL if name in detail and name not in self._left_out), None)
        if name is None:
            return False
        self._left_out.add(name)
        logger.warning("%s does not take %s (%s): it is left out", self._calls.url, name, error.detail)
        return True

    def _choice(self, answer: Any, *, path: str) -> dict[str, Any]:
        choice = first_choice(answer, url=f"{self._calls.url}{path}", kind="an OpenAI-compatible server")
        usage = answer.get("usage") or {}
        self.usage["requests"] += 1
        for name in ("prompt_tokens", "completion_tokens"):
            self.usage[name] += int(usage.get(name) or 0)
        self.usage["cached_tokens"] += int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        return choice

    def _content(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        """Where a request goes, and what of it is not a setting."""
        ids = request.token_ids
        if self.api == "completions":
            # A beginning-of-sequence marker that the tokenizer puts before every text is put there by the server.
            opening = self.tokenizer.inner.opening() if self.tokenizer.inner is not None else ""
            return "/v1/completions", {"prompt": self.tokenizer.decode(ids).removeprefix(opening)}
        if self.api == "chat":
            spans = [span for span in self._turns.get(request.episode, ()) if span[1] <= len(ids)]
            return "/v1/chat/completions", {"messages": as_messages(ids, spans=spans, tokenizer=self.tokenizer)}
        user, assistant = self.tokenizer.split(ids)
        messages = [{"role": "user", "content": user}]
        if not assistant:
            return "/v1/chat/completions", {"messages": messages}
        messages.append({"role": "assistant", "content": assistant})
        unfinished = {"continue_final_message": True, "add_generation_prompt": False}
        return "/v1/chat/completions", {"messages": messages, **unfinished}

    def _strip_prefill(self, text: str, request: GenerationRequest) -> str:
        """In a message of its own the model opens its thinking itself; in the context the prefill has done so."""
        prefilled = self.tokenizer.decode(request.token_ids[-8:]).rstrip().endswith(THINK_OPEN)
        if self.api == "completions" or not prefilled or not text.lstrip().startswith(THINK_OPEN):
            return text
        return text.lstrip().removeprefix(THINK_OPEN)

    async def _open(self, calls: ServerCalls, *, api: str) -> tuple[ServerCalls, str]:
        try:
            await self._check_model(calls)
            if api == "auto":
                api = "completions" if self.tokenizer.inner and await self._completes(calls) else "chat"
        except BaseException:
            await calls.close()
            raise
        return calls, api

    async def _check_model(self, calls: ServerCalls) -> None:
        try:
            listed = await calls.get("/v1/models")
        except ServerError as error:
            if error.status in NO_SUCH_ENDPOINT:
                return  # a server that does not list its models
            raise
        cards = listed.get("data") if isinstance(listed, dict) else None
        names = [str(card.get("id")) for card in cards or () if isinstance(card, dict)]
        if names and self.model not in names:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError(
                f'the server at {calls.url} serves {shown}, not "{self.model}"; set model.served_name to one of them'
            )

    async def _completes(self, calls: ServerCalls) -> bool:
        try:
            await calls.post("/v1/completions", {"model": self.model, "prompt": "Hello", "max_tokens": 1})
        except ServerError as error:
            if error.status in NO_SUCH_ENDPOINT:
                return False
            raise
        return True


def as_messages(
    ids: Sequence[int], *, spans: Sequence[tuple[int, int]], tokenizer: TextTokenizer
) -> list[dict[str, str]]:
    """A context as alternating messages; ``spans`` are the turns in it. A prefill opens the turn that follows it."""
    first_end = spans[0][0] if spans else len(ids)
    user, between = tokenizer.split(ids[:first_end])
    messages = [{"role": "user", "content": user}]
    starts = [start for start, _ in spans]
    for (start, end), following in zip(spans, [*starts[1:], len(ids)][: len(spans)], strict=True):
        prefill = THINK_OPEN if between.rstrip().endswith(THINK_OPEN) else ""
        messages.append({"role": "assistant", "content": prefill + tokenizer.decode(ids[start:end])})
        between = tokenizer.decode(ids[end:following])
        messages.append({"role": "user", "content": between.rstrip().removesuffix(THINK_OPEN).strip()})
    return messages


def reply_text(choice: dict[str, Any], *, api: str) -> str:
    """What the model wrote; thinking that the server has put into a field of its own comes back into its tags."""
    if api == "completions":
        return str(choice.get("text") or "")
    message = choice.get("message") or {}
    content = str(message.get("content") or "")
    thinking = message.get("reasoning_content") or message.get("reasoning")
    return f"{THINK_OPEN}{thinking}</think>{content}" if isinstance(thinking, str) and thinking else content


def end_turn(text: str, *, stop: Sequence[str], reason: str | None, met: Any) -> tuple[str, str]:
    """The text of the turn with its closing tag, and how it ended.

    >>> end_turn("it? </think><search>Ada Quill", stop=("</search>", "</answer>"), reason="stop", met=None)
    ('it? </think><search>Ada Quill</search>', 'stop')
    """
    ends = [text.index(tag) + len(tag) for tag in stop if tag in text]
    if ends:
        return text[: min(ends)], "stop"
    if reason == "stop":
        if met in stop:
            return text + str(met), "stop"
        opened = {tag: text.rfind(tag.replace("/", "", 1)) for tag in stop}
        last = max(opened, key=lambda tag: opened[tag], default="")
        if last and opened[last] >= 0:
            return text + last, "stop"
    return text, "length" if reason == "length" else "eos"
