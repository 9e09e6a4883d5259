"""`config_class`: what a settings class accepts, and what each kind of mistake is told."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from calibadv.config_class import Name, PositiveFloat, PositiveInt, Remedy, config_class, section_of
from calibadv.errors import ConfigError


@config_class("oven.fan")
class FanConfig:
    speed: PositiveInt = 1


@config_class("oven")
class OvenConfig:
    name: Name = "o"
    degrees: Annotated[PositiveInt | None, Remedy("leave it out for room temperature")] = 180
    hours: PositiveFloat = 1.0
    door: bool = True
    mode: Literal["fan", "grill"] = "fan"
    shares: tuple[Annotated[float, Interval(ge=0, lt=1)], ...] = (0.5,)
    pair: tuple[float, float] = (0.0, 1.0)
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    source: Path | str = "org/name"
    address: str | tuple[str, ...] | None = None
    key: str | None = field(default=None, repr=False)
    fan: FanConfig = field(default_factory=FanConfig)

    def __post_init__(self) -> None:
        if self.mode == "grill" and not self.door:
            raise ConfigError("oven.mode must be fan with the door open")


@config_class()
class Toaster:
    slices: PositiveInt


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degrees": 0}, "oven.degrees must be >= 1, got 0; leave it out for room temperature"),
        ({"degrees": "9"}, 'oven.degrees must be a whole number or "none", got "9"'),
        ({"degrees": True}, 'oven.degrees must be a whole number or "none", got true'),
        ({"hours": 0}, "oven.hours must be > 0, got 0"),
        ({"hours": float("inf")}, "oven.hours must be a finite number, got inf"),
        ({"hours": float("nan")}, "oven.hours must be a finite number, got nan"),
        ({"name": ""}, 'oven.name must not be empty, got ""'),
        ({"door": 1}, "oven.door must be true or false, got 1"),
        ({"mode": "steam"}, 'oven.mode must be one of "fan", "grill", got "steam"'),
        ({"shares": [0.5, 1]}, "oven.shares must be in [0, 1), got [0.5, 1]"),
        ({"shares": 0.5}, "oven.shares must be a list, each item a number, got 0.5"),
        ({"pair": (1.0,)}, "oven.pair must be a list of 2: a number, a number, got [1.0]"),
        ({"folder": 3}, 'oven.folder must be a path (a string) or "none", got 3'),
        ({"folder": ""}, 'oven.folder must be a path (a string) or "none", got ""'),
        ({"key": 3}, 'oven.key must be a string or "none"'),
        ({"address": [3]}, 'oven.address must be a string or a list, each item a string or "none", got [3]'),
        ({"fan": 3}, "oven.fan must be FanConfig, got 3"),
        ({"mode": "grill", "door": False}, "oven.mode must be fan with the door open"),
        ({"degree": 3}, "oven.degree is not a setting; did you mean oven.degrees?"),
        ({"speed": 3}, "oven.speed is not a setting; did you mean oven.fan.speed?"),
    ],
)
def test_every_mistake_names_setting_value_and_what_is_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OvenConfig(**settings)
    assert str(caught.value) == message


def test_a_class_without_section_names_its_arguments() -> None:
    for settings, message in (
        ({}, r"^slices is missing; set it"),
        ({"slices": 0}, r"^slices must be >= 1, got 0$"),
        ({"zzz": 0}, r"^zzz is not a setting; the settings are slices$"),
    ):
        with pytest.raises(ConfigError, match=message):
            Toaster(**settings)


def test_lists_are_taken_for_tuples_and_strings_for_paths() -> None:
    oven = OvenConfig(pair=[0, 1], files=["a", Path("b")], folder="c", source="d", address=["e"])  # type: ignore[arg-type]
    assert oven.pair == (0.0, 1.0)
    assert oven.files == (Path("a"), Path("b"))
    assert oven.folder == Path("c")
    assert oven.source == "d"
    assert oven.address == ("e",)
    assert OvenConfig(source=Path("d")).source == Path("d")


def test_it_is_a_frozen_dataclass_like_any_other() -> None:
    oven = OvenConfig(degrees=200)
    assert replace(oven, hours=2).hours == 2.0
    assert asdict(oven)["fan"] == {"speed": 1}
    assert fields(oven)[0].name == "name"
    assert pickle.loads(pickle.dumps(oven)) == copy.deepcopy(oven) == oven
    assert "degrees=200" in repr(oven)
    assert "key" not in repr(oven)
    assert "degrees" in inspect.signature(OvenConfig).parameters
    assert section_of(OvenConfig) == "oven"
    with pytest.raises(FrozenInstanceError):
        oven.hours = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"oven.degrees must be >= 1"):
        replace(oven, degrees=0)
    with pytest.raises(TypeError):
        OvenConfig("o")  # type: ignore[call-arg]


def test_importing_a_settings_class_does_not_load_pydantic() -> None:
    code = "import sys; from calibadv.rollout.config import RolloutConfig; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
