"""Upload a trained model to the Hugging Face hub, when asked to; the token comes from the environment."""

from __future__ import annotations

import re
from pathlib import Path

from calibadv.errors import ConfigError, SaveError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_hub(repo: str) -> None:
    """Refuse before anything is trained what could not be uploaded after: a bad name, no token."""
    if not REPO.fullmatch(repo):
        raise ConfigError(f"--push-to-hub {repo}: a repository is OWNER/NAME, such as my-name/my-agent")
    from huggingface_hub import get_token

    if not get_token():
        raise ConfigError("--push-to-hub needs a token with the right to write: export HF_TOKEN=...")


def push_folder(folder: Path, repo: str) -> str:
    """Create the repository if need be (private) and upload the folder; the address comes back."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Upload a model trained with calibadv"
        )
    except (HfHubHTTPError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SaveError(
            f"--push-to-hub {repo}: the upload failed ({reason}). The model is in {folder}; upload it by hand: "
            f"hf upload {repo} {folder}"
        ) from error
    return str(commit)
