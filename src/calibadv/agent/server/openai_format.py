"""The OpenAI chat format: requests to questions, events to answers and to chunks of a stream.

The question is the last user message. A search agent answers one question at a time and was trained on nothing else, so
other messages are not shown to it; how many were left out is in the answer (``calibadv.ignored_messages``). Parameters
that would change what comes back but cannot be honoured (``n`` > 1, ``tools``, ``logprobs``, ...) are refused by name.

Standard clients find the answer in ``content`` and the thinking in ``reasoning_content``, as with other reasoning
models; the object ``calibadv`` holds what they have no place for: sources, turns, why it ended.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from calibadv.agent.events import DocumentsFound, Event, Finished, TurnWritten, as_json
from calibadv.agent.server.config import AgentServerConfig
from calibadv.errors import ConfigError
from calibadv.io.serving import RequestRefused
from calibadv.rollout.config import RolloutConfig
from calibadv.trajectory import ActionKind, StopReason

REFUSED: dict[str, tuple[object, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "stop": (None, []),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
"""Parameters that are not supported, with the values that ask for nothing."""

LEAST_TEMPERATURE = 1e-4
"""Below, answers are greedy."""


class BadChat(RequestRefused):
    """A request that cannot be answered as it is; the message says what to change."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message, status=status)
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A request, understood."""

    question: str
    model: str
    ignored_messages: int
    rollout: RolloutConfig
    seed: int | None
    is_stream: bool
    with_usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))


def read_chat(body: bytes, *, config: AgentServerConfig, rollout: RolloutConfig) -> Chat:
    """Parse a body of /v1/chat/completions; BadChat says what is wrong with it."""
    request = _parse(body)
    model = request.get("model", config.model_name)
    if not isinstance(model, str) or model != config.model_name:
        raise BadChat(
            f"there is no model {_short(model)} here; the model is {config.model_name!r}", status=404, param="model"
        )
    for name, harmless in REFUSED.items():
        if request.get(name) not in harmless:
            raise BadChat(f"{name} = {_short(request[name])} is not supported by this agent; leave it out", param=name)
    question, ignored = _question(request.get("messages"), limit=config.max_question_chars)
    stream, options = request.get("stream") or False, request.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise BadChat("stream must be true or false, stream_options an object", param="stream")
    return Chat(
        question=question,
        model=model,
        ignored_messages=ignored,
        rollout=_rollout(request, rollout),
        seed=_number(request, "seed", whole=True),
        is_stream=stream,
        with_usage=bool(options.get("include_usage")),
    )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadChat(f"the body is not JSON ({error})") from error
    if not isinstance(request, dict):
        raise BadChat(f"the body must be a JSON object, got {type(request).__name__}")
    return request


def _question(messages: Any, *, limit: int) -> tuple[str, int]:
    """The text of the last user message, and how many messages are left out."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadChat("messages must be a list of objects with role and content", param="messages")
    last = messages[-1]
    if last.get("role") != "user":
        raise BadChat(f"the last message must be the user's, got role {_short(last.get('role'))}", param="messages")
    content = last.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise BadChat("only text can be read: every content part must be {type: text, text: ...}", param="messages")
        content = "\n".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadChat(f"content must be text, got {type(content).__name__}", param="messages")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise BadChat("the question holds half of a surrogate pair, which is no character", param="messages") from error
    if not content.strip():
        raise BadChat("the question is empty", param="messages")
    if len(content) > limit:
        raise BadChat(
            f"the question has {len(content):,} characters, more than the {limit:,} allowed", param="messages"
        )
    return content.strip(), len(messages) - 1


def _rollout(request: Mapping[str, Any], rollout: RolloutConfig) -> RolloutConfig:
    """The agent's settings with what the request asks for."""
    changes: dict[str, Any] = {}
    for name in ("temperature", "top_p"):
        value = _number(request, name)
        if value is not None:
            # No model tells 0.0001 from greedy, but the division by much less would overflow for the whole batch.
            changes[name] = 0.0 if name == "temperature" and 0 < value < LEAST_TEMPERATURE else value
    for name in ("max_completion_tokens", "max_tokens"):
        limit = _number(request, name, whole=True)
        if limit is not None:
            changes["max_turn_tokens"] = min(limit, rollout.max_turn_tokens)
    try:
        return replace(rollout, **changes)
    except ConfigError as error:
        raise BadChat(str(error).replace("rollout.max_turn_tokens", "max_tokens").replace("rollout.", "")) from error


def _number(request: Mapping[str, Any], name: str, *, whole: bool = False) -> Any:
    value: Any = request.get(name)
    is_fine = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if value is not None and not is_fine:
        raise BadChat(f"{name} must be a {'whole ' if whole else ''}number, got {_short(value)}", param=name)
    try:
        return value if whole or value is None else float(value)
    except OverflowError:
        raise BadChat(f"{name} is too large", param=name) from None


def completion(chat: Chat, events: list[Event]) -> dict[str, Any]:
    """The answer in one piece."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    message = {
        "role": "assistant",
        "content": answer_text(finished),
        "reasoning_content": "".join(map(reasoning, events)),
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(finished)}
    return _envelope(chat, "chat.completion", [choice]) | {
        "usage": finished.usage,
        "calibadv": extension(chat, finished) | {"events": [as_json(event) for event in events[:-1]]},
    }


def chunks(chat: Chat, event: Event) -> Iterator[dict[str, Any]]:
    """What a stream sends for one event."""
    if isinstance(event, Finished):
        yield _chunk(chat, {"content": answer_text(event)})
        yield _chunk(chat, {}, finish=finish_reason(event)) | {"calibadv": extension(chat, event)}
        if chat.with_usage:
            yield _chunk(chat, None) | {"usage": event.usage}
    else:
        yield _chunk(chat, {"reasoning_content": reasoning(event)}) | {"calibadv": {"event": as_json(event)}}


def opening(chat: Chat) -> dict[str, Any]:
    """The first chunk of a stream."""
    return _chunk(chat, {"role": "assistant", "content": ""})


def _chunk(chat: Chat, delta: dict[str, Any] | None, *, finish: str | None = None) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return _envelope(chat, "chat.completion.chunk", choices)


def _envelope(chat: Chat, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.model, "choices": choices}


def reasoning(event: Event) -> str:
    """The part of the thinking that an event adds, for clients that show thinking as text."""
    if isinstance(event, TurnWritten):
        thinking = (event.text if event.action.kind is ActionKind.INVALID else event.thinking).strip()
        search = f"Search: {event.action.content}" if event.action.kind is ActionKind.SEARCH else ""
        return "".join(f"{part}\n" for part in (thinking, search) if part)
    if isinstance(event, DocumentsFound):
        titles = "; ".join(document.title or document.id for document in event.documents)
        return f"Found: {titles or 'nothing'}\n\n"
    return ""


def answer_text(finished: Finished) -> str:
    """The answer, or in plain words why there is none."""
    return finished.answer if finished.answer is not None else f"(No answer: {finished.explanation()}.)"


def finish_reason(finished: Finished) -> str:
    """ "stop", or "length" when the context was full or the last turn was cut off."""
    turns = finished.trajectory.turns
    is_cut = finished.answer is None and bool(turns) and turns[-1].truncated
    return "length" if is_cut or finished.trajectory.stop_reason is StopReason.CONTEXT_LENGTH else "stop"


def extension(chat: Chat, finished: Finished) -> dict[str, Any]:
    """What the OpenAI format has no place for."""
    record = {name: value for name, value in as_json(finished).items() if name not in ("type", "usage")}
    return record | {"ignored_messages": chat.ignored_messages}


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
