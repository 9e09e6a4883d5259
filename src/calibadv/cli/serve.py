"""``calibadv serve``: an agent behind OpenAI's chat endpoints, with a page to ask from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from calibadv.cli.agent_options import LAB_MODEL, add_agent_options, is_lab, lab_questions, opened_agent
from calibadv.cli.options import add_address_options, new_command, positive, require_packages

EPILOG = """\
examples
  calibadv serve                                     the lab's packaged model; then open http://127.0.0.1:8080
  calibadv serve --model runs/my-run                 what a run has trained, with the retriever of that run
  calibadv serve --model Qwen/Qwen2.5-3B-Instruct --retriever http://127.0.0.1:8000
  calibadv serve --host 0.0.0.0                      for other machines; set CALIBADV_AGENT_TOKEN

Any OpenAI client can ask: base_url http://127.0.0.1:8080/v1, the token (if there is one) as its API key. Sources and
turns are in the object "calibadv" of an answer. GET /health, /metrics (Prometheus) and /docs say more.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "serve",
        help="serve an agent over HTTP (OpenAI-compatible, with a web page)",
        description="Serve an agent over HTTP: OpenAI-compatible chat endpoints and a page to ask from.",
        epilog=EPILOG,
    )
    add_agent_options(parser)
    add_address_options(parser, port=8080)
    parser.add_argument("--name", metavar="NAME", help="the model's name for clients (default: that of its folder)")
    parser.add_argument(
        "--max-conversations", type=positive, default=64, metavar="N", help="questions at once (default: 64)"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    require_packages("fastapi", "uvicorn", "prometheus_client", extra="serve", what="serving an agent")
    from calibadv.agent.server import AgentServerConfig, claim_address, serve
    from calibadv.agent.server.config import TOKEN_VARIABLE

    config = AgentServerConfig(
        host=arguments.host,
        port=arguments.port,
        model_name=arguments.name or name_of(arguments.model),
        max_conversations=arguments.max_conversations,
        token=os.environ.get(TOKEN_VARIABLE),
        examples=tuple(lab_questions(3)) if is_lab(arguments) else (),
    )
    listener = claim_address(config)
    print("Loading the agent ...", flush=True)
    with opened_agent(arguments, max_conversations=config.max_conversations) as agent:
        serve(
            agent, config=config, listener=listener, on_listening=lambda url: print(f"Listening on {url}", flush=True)
        )
    print("Stopped; every answer that was begun has been given.")


def name_of(model: str | None) -> str:
    """What clients call the model."""
    if model is None or model == LAB_MODEL:
        return "calibadv-lab"
    path = Path(model)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.exists() else model
