"""``calibadv init``: copy a config to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import command
from calibadv.runs.init import copy_config, first_comment, packaged_configs

EXAMPLES = """\
  calibadv init                          the configs that there are
  calibadv init lab                      copy lab.toml into this folder
  calibadv init qwen2.5-3b --out configs
"""

app = command("init", examples=EXAMPLES)


@app.default
def init(
    name: Annotated[str | None, Parameter(help="Which config (default: list them).")] = None,
    /,
    *,
    out: Annotated[Path, Parameter(metavar="DIR", help="Where to put the copy.")] = Path(),
) -> None:
    """Copy a config that comes with calibadv, to start a run of one's own from."""
    configs = packaged_configs()
    if name is None:
        width = max(map(len, configs))
        for known, path in configs.items():
            print(f"{known:<{width}}  {first_comment(path)}")
        return
    target = copy_config(name, out=out)
    print(f"{target}\n\n  calibadv doctor {target}    check it\n  calibadv train {target}     train as it says")
