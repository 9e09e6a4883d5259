"""Digests of files and models."""

import hashlib
from pathlib import Path

import pytest

from calibadv.io.provenance import file_sha256, json_sha256, model_fingerprint, text_sha256, versions


def test_a_file_is_digested_piece_by_piece(tmp_path: Path) -> None:
    content = b"abc" * 1_000_000
    (tmp_path / "a").write_bytes(content)
    pieces: list[int] = []
    assert file_sha256(tmp_path / "a", read=pieces.append) == hashlib.sha256(content).hexdigest()
    assert sum(pieces) == len(content)


def test_the_order_of_keys_does_not_matter() -> None:
    assert json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1}) != json_sha256({"a": 1, "b": 3})
    assert text_sha256("\ud800") != text_sha256("")


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert set(versions(["numpy", "no-such-package"])) == {"python", "numpy"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(9 << 20))
    return folder


def test_a_model_is_known_by_its_files_wherever_it_lies(model: Path) -> None:
    before = model_fingerprint(model)
    (model / "README.md").write_text("words")
    (model / ".cache").mkdir()
    (model / ".cache" / "a.json").write_text("{}")
    (model / "checkpoint-3").mkdir()
    (model / "checkpoint-3" / "config.json").write_text("{}")
    assert model_fingerprint(model.rename(model.with_name("moved"))) == before
    (model.with_name("moved") / "config.json").write_text("{ }")
    assert model_fingerprint(model.with_name("moved")) != before


def test_only_the_whole_digest_sees_the_middle_of_large_weights(model: Path) -> None:
    cheap, whole = model_fingerprint(model), model_fingerprint(model, whole=True)
    with (model / "model.safetensors").open("rb+") as file:
        file.seek(4 << 20)
        file.write(b"x")
    assert model_fingerprint(model) == cheap
    assert model_fingerprint(model, whole=True) != whole
