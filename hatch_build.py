"""What the wheel has and the repository has elsewhere: configs inside the package, and a README for a package index.

The address of the repository stands in one place, `[tool.hatch.metadata.hooks.custom]` of pyproject.toml. From it come
the project's URLs and the links and the picture of the README. Without an address the README has their text only.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def readme_for_index(text: str, *, repository: str) -> str:
    """The README with absolute links into the repository; with ``repository`` empty, without those links.

    >>> readme_for_index("see [the lab](docs/lab.md)", repository="https://example.org/me/calibadv")
    'see [the lab](https://example.org/me/calibadv/blob/main/docs/lab.md)'
    """

    def absolute(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if not repository:
            return "" if picture else words
        return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/main/{target})"

    if repository:
        text = text.replace("git clone REPOSITORY", f"git clone {repository}")
    return LINK.sub(absolute, text)


def project_urls(repository: str) -> dict[str, str]:
    urls = {"Paper": "https://arxiv.org/abs/2604.18235"}
    if repository:
        urls["Repository"] = repository
        urls["Documentation"] = f"{repository}/tree/main/docs"
        urls["Changelog"] = f"{repository}/blob/main/CHANGELOG.md"
        urls["Issues"] = f"{repository}/issues"
    return urls


class Metadata(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        repository = self.config["repository"].rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        readme = readme_for_index(text, repository=repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
        metadata["urls"] = project_urls(repository)


class Configs(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":  # a clone reads its own configs/
            build_data["force_include"][str(Path(self.root, "configs"))] = "calibadv/configs"
