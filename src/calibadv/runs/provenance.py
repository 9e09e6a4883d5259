"""What a run was made with, in ``run.json``: versions, and where the user's own objects and prompt come from.

::

    {"format": 1, "versions": {"calibadv": "0.1.0", ...},
     "own": {"reward.function": {"object": "my_rewards:brevity", "file": ".../my_rewards.py", "sha256": "..."}}}
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from calibadv.config import RunConfig
from calibadv.config_class import FILE
from calibadv.data.run_files import RUN
from calibadv.dialogue.prompt import prompt_template
from calibadv.io.files import read_json, write_json
from calibadv.io.provenance import source_of, text_sha256, versions
from calibadv.registry import import_object, is_import_path

logger = logging.getLogger(__name__)


def own_objects(config: RunConfig, **given: Any) -> dict[str, dict[str, str]]:
    """Setting -> import path, file and digest of each object that is not built in.

    Args:
        config: Names objects by import path.
        given: ``reward``, ``estimator``, ``retriever``, ``policy`` and ``order`` as given in Python; None: not given.
    """
    named = {
        "reward.function": (given.get("reward"), config.reward.function),
        "calibration.estimator": (given.get("estimator"), config.active_calibration.estimator),
        "retrieval.retriever": (given.get("retriever"), config.retrieval.retriever),
        "training.order": (given.get("order"), config.training.order),
        "model.engine": (given.get("policy"), config.model.engine),
    }
    found = {}
    for setting, (thing, path) in named.items():
        if thing is not None:
            found[setting] = source_of(thing)
        elif is_import_path(path):
            found[setting] = source_of(import_object(str(path), setting=setting)) | {"object": str(path)}
    if config.rollout.prompt.startswith(FILE):
        template = prompt_template(config.rollout.prompt)
        path = config.rollout.prompt.removeprefix(FILE)
        found["rollout.prompt"] = {"object": template.name, "file": path, "sha256": text_sha256(template.text)}
    return found


def record_run(folder: Path, *, own: dict[str, dict[str, str]], resumed: bool) -> None:
    """Write ``run.json``; a resumed run whose own code has changed says so."""
    path = folder / RUN
    if resumed and path.is_file():
        before = read_json(path).get("own", {})
        changed = [name for name in own if before.get(name, {}).get("sha256") != own[name].get("sha256")]
        if changed:
            logger.warning("the source of %s has changed since this run began", ", ".join(changed))
    write_json(path, {"format": 1, "versions": versions(), "own": own})
