"""Reading settings: what is accepted, and what each kind of mistake is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.config.toml import apply_override, build, read_toml, with_base
from calibadv.config_class import config_class
from calibadv.errors import ConfigError


@config_class("section.inner")
class Inner:
    depth: int = 1


@config_class("section")
class Section:
    count: int = 1
    share: float = 0.5
    name: str = "a"
    flag: bool = False
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 1.0)
    files: tuple[Path, ...] = ()
    folder: Path | None = None
    limit: int | None = None
    source: Path | str = "org/name"
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True, kw_only=True)
class Run:
    section: Section = field(default_factory=Section)
    other: Inner = field(default_factory=Inner)


@config_class()
class Needy:
    corpus: Path


def read(text: str, tmp_path: Path, *overrides: str) -> Run:
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    tables = read_toml(path)
    for override in overrides:
        apply_override(tables, override, base=Path.cwd())
    return build(Run, tables)


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    section = read(
        """
        [section]
        count = 3
        share = 1
        name = "b"
        flag = true
        mode = "slow"
        pair = [0.9, 1]
        files = ["x.jsonl", "/y.jsonl"]
        folder = "sub/../dir"
        limit = 4
        [section.inner]
        depth = 7
        """,
        tmp_path,
    ).section
    assert section.count == 3
    assert isinstance(section.share, float)
    assert section.pair == (0.9, 1.0)
    assert section.files == (tmp_path / "x.jsonl", Path("/y.jsonl"))
    assert section.folder == tmp_path / "dir"
    assert (section.flag, section.mode, section.limit) == (True, "slow", 4)
    assert section.inner.depth == 7


def test_nothing_given_gives_the_defaults(tmp_path: Path) -> None:
    assert read("", tmp_path) == Run()


def test_overrides_win_and_make_sections(tmp_path: Path) -> None:
    run = read("[section]\ncount = 3", tmp_path, "section.count=5", "section.inner.depth = 2", "other.depth=9")
    assert (run.section.count, run.section.inner.depth, run.other.depth) == (5, 2, 9)


def test_overrides_take_bare_strings_and_odd_names(tmp_path: Path) -> None:
    run = read("", tmp_path, "section.name=hello world", "section.mode=slow", "section.folder=./x")
    assert (run.section.name, run.section.mode, run.section.folder) == ("hello world", "slow", Path.cwd() / "x")
    assert read("", tmp_path, "section.name=123").section.name == "123"
    assert read("", tmp_path, "section.name=true").section.name == "true"
    assert read("", tmp_path, "section.name=a = b").section.name == "a = b"
    assert read("", tmp_path, "section.name=1\nmode = 2").section.name == "1\nmode = 2"
    assert read("", tmp_path, "section.name=").section.name == ""


def test_overrides_take_lists(tmp_path: Path) -> None:
    assert read("", tmp_path, "section.files=['a', \"b\"]").section.files == (Path.cwd() / "a", Path.cwd() / "b")
    assert read("", tmp_path, "section.pair=[0.1, 1]").section.pair == (0.1, 1.0)
    assert read('[section]\nfiles = ["x"]', tmp_path, "section.files=[]").section.files == ()


def test_none_unsets_what_may_be_unset(tmp_path: Path) -> None:
    assert read("[section]\nlimit = 3", tmp_path, "section.limit=none").section.limit is None
    with pytest.raises(ConfigError, match=r'section.count must be a whole number, got "none"'):
        read("", tmp_path, "section.count=none")


def test_a_name_is_a_path_only_when_it_looks_like_one_or_exists(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    assert read('[section]\nsource = "org/model"', tmp_path).section.source == "org/model"
    assert read('[section]\nsource = "package:x"', tmp_path).section.source == "package:x"
    assert read('[section]\nsource = "local"', tmp_path).section.source == tmp_path / "local"
    assert read('[section]\nsource = "./absent"', tmp_path).section.source == tmp_path / "absent"


def test_environment_variables_are_expanded_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBADV_TEST_ROOT", str(tmp_path / "data"))
    text = '[section]\nfolder = "${CALIBADV_TEST_ROOT}/x"\nname = "${CALIBADV_TEST_ROOT}"'
    section = read(text, tmp_path).section
    assert section.folder == tmp_path / "data" / "x"
    assert section.name == "${CALIBADV_TEST_ROOT}"
    monkeypatch.delenv("CALIBADV_TEST_ROOT")
    with pytest.raises(
        ConfigError, match=r"section.folder = .* CALIBADV_TEST_ROOT, which is not set: export it, or give"
    ):
        read(text, tmp_path)
    assert read(text, tmp_path, "section.folder=/z").section.folder == Path("/z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sektion]", r"^sektion is not a setting; did you mean section\?$"),
        ("[section]\ncuont = 1", r"^section.cuont is not a setting; did you mean section.count\?$"),
        ("[section]\nzzz = 1", r"section.zzz is not a setting; the settings of \[section\] are count, share"),
        ("count = 1", r"^count is not a setting; did you mean section.count\?$"),
        ("[section.inner]\nwidth = 1", r"section.inner.width is not a setting"),
        ("[section]\ncount = 1.5", r"^section.count must be a whole number, got 1.5$"),
        ("[section]\ncount = true", r"^section.count must be a whole number, got true$"),
        ('[section]\ncount = "3"', r'^section.count must be a whole number, got "3"$'),
        ("[section]\nshare = [1]", r"section.share must be a number, got \[1\]"),
        ("[section]\nflag = 1", r"section.flag must be true or false, got 1"),
        ('[section]\nmode = "medium"', r'section.mode must be one of "fast", "slow", got "medium"'),
        ("[section]\npair = [1.0]", r"section.pair must be a list of 2: a number, a number, got \[1.0\]"),
        ('[section]\nfiles = "x.jsonl"', r"section.files must be a list, each item a path"),
        ("[section]\nfiles = [1]", r"section.files must be a list, each item a path"),
        ('[section]\nlimit = "many"', r'section.limit must be a whole number or "none", got "many"'),
        ("[section]\nname = 3", r"section.name must be a string, got 3"),
        ('[section]\nfolder = ""', r"section.folder must be a path"),
        ('[section]\nsource = ""', r"section.source must be a path"),
        ("[section]\nsource = 3", r"section.source must be a path \(a string\) or a string, got 3"),
        ("[section.count]\nx = 1", r"section.count must be a whole number, got a section"),
        ("section = 3", r"section must be a section, got 3"),
        ("[section]\ncount = 2026-01-01", r"section.count must be a whole number, got 2026-01-01"),
        ("[section\n", r"run.toml: not TOML"),
    ],
)
def test_every_mistake_names_the_key_the_value_and_what_is_expected(tmp_path: Path, text: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text, tmp_path)


def test_several_missing_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^corpus is missing; set it in the config or with --set$"):
        build(Needy, {})


@pytest.mark.parametrize("override", ["", "x", "=3", "a.=3", ".a=3", "a..b=3"])
def test_an_override_that_is_none_is_refused(override: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected section.key=value"):
        apply_override({}, override, base=Path())


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"section.count is a value, not a section"):
        read("[section]\ncount = 3", tmp_path, "section.count.deeper=1")


def test_missing_files_and_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match="not TOML"):
        read_toml(tmp_path / "latin.toml")


@given(st.text(max_size=30))
def test_any_override_text_gives_a_config_or_a_config_error(text: Any) -> None:
    tables = with_base({"section": {"count": 3}}, base=Path())
    try:
        apply_override(tables, f"section.{text}", base=Path())
        build(Run, tables)
    except ConfigError:
        pass
