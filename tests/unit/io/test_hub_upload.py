"""Uploading a model: refused early what cannot work, done privately, and a failure costs nothing. No network."""

from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, SaveError
from calibadv.io.hub import check_upload, upload_folder


class Api:
    """Stands in for huggingface_hub.HfApi."""

    calls: list[tuple[Any, ...]]
    error: Exception | None = None

    def create_repo(self, repo: Any, **options: Any) -> None:
        self.calls.append(("create", repo, options))

    def upload_folder(self, **options: Any) -> Any:
        self.calls.append(("upload", options["repo_id"], sorted(p.name for p in options["folder_path"].iterdir())))
        if self.error is not None:
            raise self.error
        return f"https://hub.example/{options['repo_id']}/commit/1"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = type("Fake", (Api,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", fake)
    return fake


@pytest.fixture
def model(tmp_path: Path) -> Any:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_model_is_uploaded_into_a_private_repository(api: Any, model: Any) -> None:
    assert upload_folder(model, "me/agent", option="--push-to-hub") == "https://hub.example/me/agent/commit/1"
    assert api.calls == [
        ("create", "me/agent", {"private": True, "exist_ok": True}),
        ("upload", "me/agent", ["config.json"]),
    ]


def test_a_failed_upload_says_where_the_model_is(api: Any, model: Any) -> None:
    api.error = OSError("connection reset")
    with pytest.raises(SaveError, match=r"upload failed \(connection reset\).*upload it by hand: hf upload me/agent"):
        upload_folder(model, "me/agent", option="--push-to-hub")


def test_what_cannot_be_uploaded_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="export HF_TOKEN"):
        check_upload("me/agent", option="--push-to-hub")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    check_upload("me/agent", option="--push-to-hub")
    for name in ("agent", "a/b/c", "me/", "../x/y"):
        with pytest.raises(ConfigError, match="a repository is OWNER/NAME"):
            check_upload(name, option="--push-to-hub")
