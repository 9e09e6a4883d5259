"""The lab: a fictional encyclopedia and a tiny policy that learns to search it, for complete runs on a laptop.

- `arms`: the arms of a lab experiment: an algorithm with changed settings, written ``calibadv:lambda=0.5``
- `base_policy`: making the tiny policy that the lab trains
- `compare`: `run_lab`: train several arms from the same base policy on the same questions, side by side, and compare
  them
- `config`: settings of a lab: which arms are trained, how long, in which world; and the run config of each of them
- `folder`: the folder of a lab: one lab at a time, an older one is moved aside, nothing is overwritten
- `jobs`: the runs of a lab: each is ``calibadv train`` in a process of its own with one thread
- `names`: the words of the fictional encyclopedia: names, countries, rivers, years
- `progress`: how the lab's runs are shown while they train, and the table at the end
- `questions`: questions about a world, with the chain of facts that answers each one
- `results`: ``results.json``: settings, the figures of each run, and the verdict
- `verdict`: what a lab has shown, in words: the difference between its arms with a 95 % interval
- `world`: a seeded fictional encyclopedia: people, films, bands, books, towns and companies that refer to each other
"""

from __future__ import annotations

from pathlib import Path

from calibadv.errors import ConfigError
from calibadv.lab.base_policy.presets import PRESETS, PretrainConfig
from calibadv.lab.questions import Puzzle, make_questions, write_world
from calibadv.lab.world import LabWorld

__all__ = ["PRESETS", "LabWorld", "PretrainConfig", "Puzzle", "load_policy", "make_questions", "write_world"]


def load_policy() -> Path:
    """Folder of the packaged base policy: a Hugging Face model with its tokenizer and the record of its training."""
    folder = Path(__file__).parent / "weights" / "base"
    if not (folder / "model.safetensors").exists():
        raise ConfigError(f"the packaged weights are missing from {folder}; install the package again")
    return folder
