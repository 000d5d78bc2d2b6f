"""Every link of a page leads to a file that exists, and every anchor to a heading."""

import posixpath
from urllib.parse import unquote

import pytest

from support.markdown import PAGES, ROOT, anchors, links


def broken(text: str, folder: str) -> list[str]:
    """Links of a page in a folder, from the repository's root, that lead nowhere."""
    found = []
    for link in links(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = ROOT / posixpath.normpath(posixpath.join(folder, name)) if name else None
        if target is not None and not target.exists():
            found.append(link)
        elif anchor:
            page = text if target is None else target.read_text(encoding="utf-8")
            if anchor not in anchors(page):
                found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    folder = page.parent.relative_to(ROOT).as_posix()
    assert broken(page.read_text(encoding="utf-8"), folder) == []


def test_a_link_that_leads_nowhere_is_found():
    text = "# One heading\n[a](#one-heading) [b](#other) [c](../README.md) [d](gone.md#x) `[e](f)`"
    assert broken(text, "docs") == ["#other", "gone.md#x"]
