"""A policy that generates with a running ``vllm serve``: token ids over HTTP, one request a turn.

The prompt travels as token ids, and the server sends the sampled ids and the ids of the prompt back
(``return_token_ids``); the latter must be those that were sent. Everything that the server might fill in from the
model's generation config (top_k, penalties) is set.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, PolicyError, TokenMismatchError
from calibadv.io.retry import Retry
from calibadv.rollout.policies.async_policy import AsynchronousPolicy
from calibadv.rollout.policies.http_client import DEFAULT_RETRY, ServerCalls, ServerError, first_choice
from calibadv.rollout.policies.stop_strings import TurnReader
from calibadv.rollout.policy import Completion, GenerationRequest
from calibadv.rollout.tokenizer import Tokenizer, as_tokenizer

DEFAULT_ROWS = 256
PROBE = "Who wrote it? </think><search>a query</search>\n\n<information>Doc 1</information>"
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class VllmServerPolicy(AsynchronousPolicy):
    """Writes turns with the server at ``url``.

    ``model`` is the folder or hub id that the server should have loaded; ``served_name`` its name there, if it has
    another. ``tokenizer`` is the model's. Opening it checks that the server is up, serves that model, encodes text as
    ``tokenizer`` does and returns token ids with log-probabilities at temperature 1.
    """

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        *,
        model: Path | str,
        served_name: str | None = None,
        max_rows: int = DEFAULT_ROWS,
        max_context: int | None = None,
        eos_ids: Collection[int] = (),
        key: str | None = None,
        timeout_s: float = 600.0,
        retry: Retry = DEFAULT_RETRY,
    ) -> None:
        super().__init__(max_rows=max_rows, max_context=max_context)
        self._tokenizer: Tokenizer = as_tokenizer(tokenizer)
        self._reader = TurnReader(self._tokenizer, eos_ids={*self._tokenizer.eos_ids, *eos_ids})
        try:
            self._calls, self.served_name, length = self._loop.run(
                self._open(
                    ServerCalls(url, key=key, timeout_s=timeout_s, retry=retry),
                    model=str(model), served_name=served_name,
                )
            ).result()  # fmt: skip
        except BaseException:
            self._loop.close()
            raise
        if length is not None:
            if max_context is not None and max_context > length:
                self.close()
                raise ConfigError(f"model.max_context must be <= {length}, what the server holds, got {max_context}")
            self.max_context = max_context or length

    async def write(self, request: GenerationRequest) -> Completion:
        """One turn."""
        asked = request.params
        answer = await self._calls.post(
            "/v1/completions",
            self._body(
                request.token_ids, max_tokens=asked.max_tokens, temperature=asked.temperature, top_p=asked.top_p,
                seed=request.seed >> 1, stop=list(asked.stop),
            ),
        )  # fmt: skip
        choice = self._choice(answer)
        ids, logprobs = _sampled(choice, url=self._calls.url)
        sent = choice.get("prompt_token_ids")
        if sent is not None and list(sent) != list(request.token_ids):
            raise TokenMismatchError(
                f"episode {request.episode}: the server at {self._calls.url} generated after {len(sent)} ids that "
                f"are not the {len(request.token_ids)} it was sent; switch its prompt truncation off"
            )
        said_eos = choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str)
        return self._reader.read(request, token_ids=ids, logprobs=logprobs, said_eos=said_eos)

    def load_weights(self, folder: Path | str) -> None:
        """Let the server take over the weights of a folder it can read; it must run in vLLM's development mode."""
        self._loop.run(self._reload(Path(folder))).result()

    async def _reload(self, folder: Path) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.absolute())}}
        try:
            await self._calls.post("/collective_rpc", body)
            await self._calls.post("/reset_prefix_cache", {})
        except ServerError as error:
            raise PolicyError(
                f"{self._calls.url} does not load new weights ({error.detail}): start it with VLLM_SERVER_DEV_MODE=1, "
                "on a machine that sees the folder"
            ) from error

    async def shut_down(self) -> None:
        """Close the connections."""
        await self._calls.close()

    def _body(self, token_ids: Any, *, max_tokens: int, **sampling: Any) -> dict[str, Any]:
        return {
            "model": self.served_name, "prompt": list(token_ids), "max_tokens": max_tokens, "logprobs": 0,
            "return_token_ids": True, "skip_special_tokens": False, "include_stop_str_in_output": True,
            "stop_token_ids": sorted(self._reader.eos_ids), **NEUTRAL, **sampling,
        }  # fmt: skip

    def _choice(self, answer: Any) -> dict[str, Any]:
        return first_choice(answer, url=f"{self._calls.url}/v1/completions", kind="vllm serve")

    async def _open(
        self, calls: ServerCalls, *, model: str, served_name: str | None
    ) -> tuple[ServerCalls, str, int | None]:
        try:
            await calls.get("/health")
            listed = await calls.get("/v1/models")
            name, length = find_model(listed, url=calls.url, model=model, served_name=served_name)
            self._calls, self.served_name = calls, name
            await self._check_tokenizer()
            await self._check_logprobs()
        except BaseException:
            await calls.close()
            raise
        return calls, name, length

    async def _check_tokenizer(self) -> None:
        try:
            answer = await self._calls.post(
                "/tokenize", {"model": self.served_name, "prompt": PROBE, "add_special_tokens": False}
            )
        except ServerError:
            return  # a server without that endpoint
        if list(answer.get("tokens", ())) != self._tokenizer.encode(PROBE):
            raise ConfigError(
                f'the server at {self._calls.url} encodes text differently from the tokenizer of model.path: "'
                f'{self.served_name}" is another model; serve the one that model.path names'
            )

    async def _check_logprobs(self) -> None:
        """Two one-token probes: ids come back, and log-probabilities do not depend on the temperature."""
        context = self._tokenizer.encode(PROBE)
        seen: list[float] = []
        for temperature in (1.0, 0.25):
            body = self._body(context, max_tokens=1, temperature=temperature, top_p=1.0, seed=1, logit_bias=None)
            choice = self._choice(await self._calls.post("/v1/completions", body | {"logprobs": 1}))
            _sampled(choice, url=self._calls.url)
            top = (choice["logprobs"].get("top_logprobs") or [None])[0] or {}
            seen.append(max(top.values(), default=0.0))
        if abs(seen[0] - seen[1]) > 0.1:
            raise ConfigError(
                f"the server at {self._calls.url} gives log-probabilities after the temperature; start vllm serve with "
                "--logprobs-mode raw_logprobs"
            )


def find_model(listed: Any, *, url: str, model: str, served_name: str | None) -> tuple[str, int | None]:
    """Name and longest context of the model among those that ``/v1/models`` lists; `ConfigError` when it is not there.

    >>> listed = {"data": [{"id": "m", "root": "org/m", "max_model_len": 9}]}
    >>> find_model(listed, url="", model="org/m", served_name=None)
    ('m', 9)
    """
    cards = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
        raise PolicyError(f"{url}/v1/models does not list models; is model.url the address of vllm serve?")
    paths = {model, str(Path(model).expanduser().absolute())}
    for card in cards:
        if card["id"] == served_name or (served_name is None and not paths.isdisjoint((card["id"], card.get("root")))):
            return str(card["id"]), card.get("max_model_len")
    names = ", ".join(f'"{card["id"]}"' for card in cards) or "nothing"
    wanted = f'model.served_name "{served_name}"' if served_name else f'model.path "{model}"'
    raise ConfigError(
        f"the server at {url} serves {names}, not {wanted}; start vllm serve with that model, or, where the server "
        "knows it by another name, set model.served_name"
    )


def _sampled(choice: dict[str, Any], *, url: str) -> tuple[list[int], list[float]]:
    ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(ids, list) or not isinstance(logprobs, list):
        raise PolicyError(
            f"{url} does not return token ids and log-probabilities (return_token_ids); use vllm serve 0.11 or newer, "
            'or model.engine "openai", which needs none and is for evaluation only'
        )
    return ids, logprobs
