"""The style sheets and the script of the pages."""

from __future__ import annotations

from importlib.resources import files

ASSETS = {
    "page.css": ("eef.report", "page.css", "text/css"),
    "viewer.css": ("eef.viewer", "files/viewer.css", "text/css"),
    "icon.svg": ("eef.viewer", "files/icon.svg", "image/svg+xml"),
    "viewer.js": ("eef.viewer", "files/viewer.js", "text/javascript"),
    "files.js": ("eef.viewer", "files/files.js", "text/javascript"),
}
"""Name → package, path inside it, media type."""


def read_asset(name: str) -> str:
    """The text of a style sheet or script."""
    package, path, _ = ASSETS[name]
    return files(package).joinpath(path).read_text(encoding="utf-8")
