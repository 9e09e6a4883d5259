"""``calibadv ask``: put a question to an agent and watch it think, search and answer."""

from __future__ import annotations

import sys
from json import dumps
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.agent import SETTINGS, Model, RetrieverOption, Temperature
from calibadv.cli.options import Arm, Json, Overrides, command, overrides_of, takes_settings
from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.terminal import Blocks

EXAMPLES = """\
  calibadv ask                          three questions that the lab answers
  calibadv ask "Who ...?"               the packaged model, the lab's encyclopedia
  calibadv ask "Who ...?" --model runs/lab            what a lab has trained
  calibadv ask "Who ...?" --model runs/my-run         a run, with its retriever
  calibadv ask "Who ...?" --model Qwen/Qwen2.5-3B-Instruct --retriever http://127.0.0.1:8000
  calibadv ask "Who ...?" --json        one JSON object an event, for programs

Exit codes: 0 there is an answer; 1 the model ended without one; 3 the search
failed. NO_COLOR=1 switches colours off.
"""
WAIT_S = 5.0
"""For a retriever that is still loading: somebody is waiting for the answer."""

app = command("ask", examples=EXAMPLES)


@app.default
@takes_settings(SETTINGS)
def ask(
    question: Annotated[str | None, Parameter(help="Leave it out for examples of the lab.")] = None,
    /,
    *,
    model: Model = None,
    arm: Arm = None,
    retriever: RetrieverOption = None,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, Parameter(help="Of the draws, for --temperature above 0.")] = None,
    overrides: Overrides = (),
    json: Json = False,
    **options: Any,
) -> int:
    """Put a question to an agent and watch it think, search and answer."""
    if question is None:
        if model is not None or retriever is not None:
            raise ConfigError('QUESTION is missing: put it in quotes, calibadv ask "who ...?"')
        from calibadv.runs.agent import lab_questions

        print("Questions that the lab's encyclopedia answers:")
        for text in lab_questions(3):
            print(f'  calibadv ask "{text}"')
        return 0
    if not question.strip():
        raise ConfigError("QUESTION is empty; put a question in quotes")
    given = [f"retrieval.remote.wait_s={WAIT_S}", f"rollout.temperature={temperature}"]
    given += [*overrides_of(SETTINGS, options), *overrides]
    from calibadv.agent.events import as_json
    from calibadv.agent.transcript import event_lines
    from calibadv.runs.agent import started_agent

    blocks = Blocks(sys.stdout, width=100)
    with started_agent(model, retriever=retriever, arm=arm, overrides=given) as agent:
        for event in agent.ask(question, seed=seed):
            lines = [dumps(as_json(event), ensure_ascii=False)] if json else event_lines(event, blocks=blocks)
            if lines:
                print("\n".join(lines), flush=True)
    return exit_code(event)


def exit_code(end: Any) -> int:
    """1 without an answer; a search that failed is an error."""
    from calibadv.trajectory import StopReason

    if end.trajectory.stop_reason is StopReason.SEARCH_FAILED:
        raise RetrieverError(end.trajectory.error or "the search failed")
    return 1 if end.answer is None else 0
