"""A hook of MkDocs (mkdocs.yml): links out of docs/ work in the site, and no page needs a network.

Pages link to files of the repository as its own viewers need it (`../results/README.md`). A file
that is linked to becomes part of the site, under `repository/`; a folder stands for its README.
After the build every page is searched for what a browser would ask another host for.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS, OUTSIDE = "docs", "repository"
LARGEST = 2_000_000  # bytes; records and weights are not for a site
_LINK = re.compile(r"(?<!\\)(\]\()([^)\s]+)(\))")
_REQUEST = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"?(?:canonical|prev|next)))\b[^>]*"
    r"(?:src|href)=[\"']?(?:https?:)?//|@import\s+(?:url\()?[\"']?(?:https?:)?//"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file outside docs/ that a page leads to."""
    open_pages = [f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(open_pages)
    while open_pages:
        page = open_pages.pop()
        for _, target, _ in _LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            path = repository_path(page, target)
            if path is None or path in seen or path.startswith(f"{DOCS}/"):
                continue
            seen.add(path)
            files.append(File.generated(config, f"{OUTSIDE}/{path}", abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                open_pages.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Point links at the site's places; what is not part of it stays as its text."""
    uri = page.file.src_uri
    source = uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"{DOCS}/{uri}"

    def moved(match: re.Match[str]) -> str:
        path = repository_path(source, match[2])
        if path is None:
            return match[0]
        inside = path.removeprefix(f"{DOCS}/") if path.startswith(f"{DOCS}/") else None
        to = posixpath.relpath(inside or f"{OUTSIDE}/{path}", posixpath.dirname(uri) or ".")
        _, hash_mark, anchor = match[2].partition("#")
        return f"{match[1]}{to}{hash_mark}{anchor}{match[3]}"

    return _LINK.sub(moved, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that asks another host for anything."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        if found := _REQUEST.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} asks another host: {found[0]}")


def repository_path(page: str, target: str) -> str | None:
    """The file that a link means, from the repository's root.

    Args:
        page: The page that has it, from the root too.
        target: The link, perhaps with an anchor.

    Returns:
        None for anchors, addresses, and what a site does not hold.
    """
    name = unquote(target.partition("#")[0])
    if not name or "://" in name or name.startswith("mailto:"):
        return None
    path = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
    if path.is_dir():
        path = path / "README.md"
    if not path.is_file() or path.stat().st_size > LARGEST:
        return None
    return path.relative_to(ROOT).as_posix()
