"""The project's Markdown pages, taken apart: links, headings, blocks of code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
"""The pages whose commands and examples a reader copies."""

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(
        path
        for folder in ("docs", "results", "examples", "task_configs", "lm_eval_specfair", ".github")
        for path in sorted((ROOT / folder).rglob("*.md"))
        if not path.is_relative_to(ROOT / "results" / "runs")
    ),
]
_FENCED = re.compile(r"^ *(`{3,})([\w-]*)[^\n]*\n(.*?)^ *\1 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)>?\s*(?:\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """What the fenced blocks of a language hold."""
    return [body for _, name, body in _FENCED.findall(text) if name == language]


def prose(text: str) -> str:
    """The text without blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "``", _FENCED.sub("", text))


def links(text: str) -> list[str]:
    """Where the links and images of a page lead."""
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """What `#...` may name in a page: its headings, as viewers of repositories spell them."""
    counts: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).strip().replace(" ", "-")
        number = counts.get(slug, 0)
        counts[slug] = number + 1
        found.add(slug if not number else f"{slug}-{number}")
    return found


def commands(path: Path) -> Iterator[list[str]]:
    """The commands of a page's bash blocks, as words, without variables before them."""
    for block in blocks(path.read_text(encoding="utf-8"), "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                yield words
