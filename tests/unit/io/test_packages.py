"""What to install when a package is missing."""

import re
import tomllib
from pathlib import Path

import pytest

from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages

ROOT = Path(__file__).parents[3]


def test_the_hint_names_the_clone_and_an_extra_that_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"tea needs no_such_module, which is not installed: pip install") as caught:
        require_packages("json", "no_such_module", extra="train", what="tea")
    found = re.search(r"pip install -e '(.*)\[(\w+)\]'", str(caught.value))
    assert found is not None
    assert (Path(found[1]), found[2]) == (ROOT, "train")
    assert found[2] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[train\]'"):
        require_packages("no_such_module", extra="train", what="tea")


def test_what_is_installed_is_not_mentioned() -> None:
    require_packages("json", "numpy", extra="train", what="tea")
