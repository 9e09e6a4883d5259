"""``calibadv serve``: an agent behind OpenAI's chat endpoints, with a page to ask from."""

from __future__ import annotations

import os
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.agent.server.config import TOKEN_VARIABLE, AgentServerConfig
from calibadv.cli.agent import SETTINGS, Model, RetrieverOption, Temperature
from calibadv.cli.options import Arm, Overrides, command, fill, overrides_of, takes, takes_settings
from calibadv.io.packages import require_packages

EXAMPLES = """\
  calibadv serve                        the packaged model, on port 8080
  calibadv serve --model runs/lab       what a lab has trained
  calibadv serve --model runs/my-run    a run, with the retriever of that run
  calibadv serve --model org/model --retriever http://127.0.0.1:8000
  calibadv serve --host 0.0.0.0         for other machines: with a token

http://127.0.0.1:8080 is a page to ask from, with http://127.0.0.1:8080/v1 as the
base_url any OpenAI client can ask; its API key is the token, which is read from
CALIBADV_AGENT_TOKEN. Sources and turns are in the object "calibadv" of an answer.
GET /health, /metrics (Prometheus) and /docs say more.
"""

app = command("serve", examples=EXAMPLES)


@app.default
@takes(AgentServerConfig, skip=("token", "examples", "model_name"), group="Server")
@takes_settings(SETTINGS)
def serve(
    *,
    model: Model = None,
    arm: Arm = None,
    retriever: RetrieverOption = None,
    temperature: Temperature = 0.0,
    name: Annotated[
        str | None, Parameter(group="Server", help="What clients call the model (default: the name of its folder).")
    ] = None,
    overrides: Overrides = (),
    **options: Any,
) -> None:
    """Serve an agent over HTTP: OpenAI-compatible chat endpoints and a page to ask from."""
    require_packages("fastapi", "uvicorn", "prometheus_client", extra="serve", what="serving an agent")
    from calibadv.agent.server import claim_address, serve
    from calibadv.runs.agent import lab_questions, name_of

    is_lab = model is None and retriever is None
    config = fill(
        AgentServerConfig,
        options,
        model_name=name or name_of(model),
        token=os.environ.get(TOKEN_VARIABLE),
        examples=tuple(lab_questions(3)) if is_lab else (),
    )
    listener = claim_address(config)
    print("Loading the agent ...", flush=True)
    given = [f"rollout.temperature={temperature}", *overrides_of(SETTINGS, options), *overrides]
    from calibadv.runs.agent import started_agent

    with started_agent(
        model, retriever=retriever, arm=arm, overrides=given, max_conversations=config.max_conversations
    ) as agent:
        serve(
            agent, config=config, listener=listener, on_listening=lambda url: print(f"Listening on {url}", flush=True)
        )
    print("Stopped; every answer that was begun has been given.")
