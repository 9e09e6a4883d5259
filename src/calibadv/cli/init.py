"""``calibadv init``: copy a config to start from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import command
from calibadv.errors import ConfigError
from calibadv.runs.init import packaged_configs

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
    name = name.removesuffix(".toml")
    if name not in configs:
        close = difflib.get_close_matches(name, configs, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(configs)}"
        raise ConfigError(f"{name} is no config that comes with calibadv; {hint}")
    target = out / f"{name}.toml"
    if target.exists():
        raise ConfigError(f"{target} exists already; name another folder with --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    target.write_text(configs[name].read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{target}\n\n  calibadv doctor {target}    check it\n  calibadv train {target}     train as it says")


def first_comment(path: Path) -> str:
    """What a config says about itself in its first line."""
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("# ").strip() for line in file if line.startswith("#")), "")
