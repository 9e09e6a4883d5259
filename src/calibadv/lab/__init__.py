"""The lab: a fictional encyclopedia and a tiny policy that learns to search it, for complete runs on a laptop.

`world` (with `names`, `schema`, `questions`) makes the encyclopedia and its questions, `tokenizer` the vocabulary,
`demonstrations` (with `phrases`) the programmatic trajectories, `pretrain` (with `presets`, `initialise`) the base
policy, `probe` measures whether a policy really reads, `run` (with `arms`) trains several arms side by side. The base
policy of the preset "default" is packaged: `load_policy`.
"""

from __future__ import annotations

from pathlib import Path

from calibadv.errors import ConfigError
from calibadv.lab.presets import PRESETS, LabPreset, PretrainConfig
from calibadv.lab.questions import Puzzle, make_questions
from calibadv.lab.world import LabWorld

__all__ = ["PRESETS", "LabPreset", "LabWorld", "PretrainConfig", "Puzzle", "load_policy", "make_questions"]


def load_policy() -> Path:
    """Folder of the packaged base policy: a Hugging Face model with its tokenizer and the record of its training."""
    folder = Path(__file__).parent / "weights" / "base"
    if not (folder / "model.safetensors").exists():
        raise ConfigError(f"the packaged weights are missing from {folder}; install the package again")
    return folder
