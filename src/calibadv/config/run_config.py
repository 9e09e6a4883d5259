"""`RunConfig`: the configs of all components, composed; read from TOML, changed with ``--set``, printed and saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from calibadv.advantage import CalibrationConfig
from calibadv.config.toml import Value, apply_override, build, expand_path, read_toml, with_base
from calibadv.data.config import DataConfig
from calibadv.dialogue.prompt import prompt_template
from calibadv.errors import ConfigError
from calibadv.evaluation.config import EvaluationConfig
from calibadv.models.config import ModelConfig, check_trainable_engine
from calibadv.models.lora import LoraConfig
from calibadv.retrieval.config import RetrievalConfig
from calibadv.rewards.outcome import RewardConfig
from calibadv.rollout.config import RolloutConfig
from calibadv.training.config import AlgorithmConfig, TrainingConfig, check_engine_settings
from calibadv.training.sft.config import SFTConfig

FROM_DATA_ROOT = (("data", "train"), ("data", "test"), ("retrieval", "corpus"), ("sft", "questions"), ("sft", "traces"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that a run depends on. One section per component; each is documented beside its component."""

    model: ModelConfig
    retrieval: RetrievalConfig
    lora: LoraConfig = field(default_factory=LoraConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        prompt_template(self.rollout.prompt, read_again=True)
        if self.data.train_weights and self.training.order != "shuffled":
            raise ConfigError(
                f'data.train_weights would have no effect: training.order "{self.training.order}" decides which '
                "questions are asked. Leave one of them out"
            )
        if self.training.reference is not None and self.lora.rank is not None:
            raise ConfigError(
                f'training.reference "{self.training.reference}" cannot be used with lora.rank: the reference of an '
                "adapter is the model without it. Leave training.reference out"
            )
        if self.active_calibration.needs_correctness and self.rollout.max_searches < 1:
            raise ConfigError(
                "rollout.max_searches must be >= 1 with the soft penalty on, got 0: without searches no query "
                'correctness arrives; allow searches, or set algorithm.name = "grpo"'
            )

    @classmethod
    def read(cls, path: Path | str, *, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a TOML file and apply ``section.key=value`` overrides.

        Relative paths start from the config's folder, those of overrides from the working directory, and those of
        question and corpus files from ``data.root`` where it is set. ``${NAME}`` is an environment variable.
        """
        path = Path(path)
        tables = read_toml(path)
        training = tables.setdefault("training", {})
        if isinstance(training, dict):
            training.setdefault("output", Value(f"runs/{path.stem}", Path.cwd()))
        return cls._from_tables(tables, overrides=overrides)

    @classmethod
    def from_mapping(cls, sections: Mapping[str, Any], *, overrides: Sequence[str] = ()) -> RunConfig:
        """Read nested plain values, such as `effective` gives; relative paths start from the working directory."""
        return cls._from_tables(with_base(sections, base=Path.cwd()), overrides=overrides)

    @classmethod
    def _from_tables(cls, tables: dict[str, Any], *, overrides: Sequence[str]) -> RunConfig:
        for override in overrides:
            apply_override(tables, override, base=Path.cwd())
        _start_from_data_root(tables)
        return build(cls, tables)

    @property
    def active_calibration(self) -> CalibrationConfig:
        """[calibration] when the algorithm uses it, else its estimator alone."""
        if self.algorithm.name == "calibadv":
            return self.calibration
        return CalibrationConfig.plain(estimator=self.calibration.estimator)

    def check_adapter(self) -> None:
        """Refuse to train packed weights, which cannot change."""
        if self.model.quantization is not None and self.lora.rank is None:
            raise ConfigError(
                f'model.quantization "{self.model.quantization}" can only be trained with an adapter: set lora.rank, '
                "such as 16, or leave the quantization out"
            )

    def check_trainable(self) -> None:
        """Refuse what only training cannot use: no questions, greedy rollouts, an engine that it does not update."""
        check_trainable_engine(self.model)
        self.check_adapter()
        check_engine_settings(self.training, engine=self.model.engine)
        if not self.data.train:
            raise ConfigError('data.train is empty; name question files, such as data.train = ["my.train.jsonl"]')
        if self.rollout.temperature == 0:
            raise ConfigError(
                "rollout.temperature must be > 0 for training, got 0: greedy rollouts of one question are all the same"
            )

    def effective(self) -> dict[str, Any]:
        """Every setting with its value, as nested plain values (paths absolute, as strings)."""
        effective: dict[str, Any] = _plain(self)
        return effective

    def to_toml(self) -> str:
        """`effective` as TOML that `read` gives back unchanged; settings that are not set are left out."""
        return _toml(self.effective())


def _start_from_data_root(tables: dict[str, Any]) -> None:
    data = tables.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    if not isinstance(root, Value) or not isinstance(root.value, str) or root.value == "none":
        return
    try:
        base = expand_path(root.value, base=root.base)
    except KeyError:
        return  # reported with the setting's name when data.root itself is read
    for section, key in FROM_DATA_ROOT:
        table = tables.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), Value):
            table[key] = Value(table[key].value, base, table[key].text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return value


def _toml(table: Mapping[str, Any], *, name: str = "") -> str:
    lines = [
        f"{key} = {_toml_value(value)}"
        for key, value in table.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(([f"[{name}]"] if name else []) + lines) + "\n\n" if lines else ""
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += _toml(value, name=f"{name}.{key}" if name else key)
    return text


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
