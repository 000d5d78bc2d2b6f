"""Build the embedded pair's corpus from Debian packages: one JSON Lines file a language and split.

Run on Debian 12 (it calls apt-get and dpkg):

    python experiments/embedded_pair/corpus.py --work build/pair

Writes `WORK/corpus/train/<lang>.jsonl` and `WORK/corpus/heldout/<lang>.jsonl`; a line is one
document: {"source", "file", "text"}. A document's split depends on its file name alone, so that
translations of one page are never on both sides. Text stays on your machine: only weights and
these scripts are published.

Knows nothing about tokens or models.
"""

import argparse
import hashlib
import html
import json
import re
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

from languages import LANGUAGES, Language
from lxml import etree
from lxml import html as lxml_html

SHARED_PACKAGES = ["debian-handbook", "gnome-user-docs"]
HELDOUT_PERCENT = 3
HTML_BLOCKS = {
    "p",
    "div",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "td",
    "th",
    "br",
    "tr",
    "dt",
    "dd",
    "pre",
    "title",
    "section",
}
MALLARD_BLOCKS = {
    "p",
    "title",
    "item",
    "steps",
    "section",
    "page",
    "note",
    "list",
    "td",
    "tr",
    "example",
    "media",
}
SKIPPED = {"script", "style", "head", "nav", "svg", "footer"}
FIREFOX_MIN_CHARS = 12

FTL_MESSAGE = re.compile(r"^(?:-?[a-zA-Z][\w-]*|\s+\.[\w-]+)\s*=\s*(.*)$")
FTL_BRAND = re.compile(r"\{\s*-[\w-]*(?:brand|product)[\w-]*\s*(?:\([^()]*\))?\s*\}")
FTL_VENDOR = re.compile(r"\{\s*-vendor[\w-]*\s*(?:\([^()]*\))?\s*\}")
MARKUP = re.compile(r"<[^>]+>")

Document = tuple[str, str, list[str]]  # source, file, lines


def lines_of(root: etree._Element, blocks: set[str]) -> list[str]:
    """The text of an element tree, a new line at every block tag, white space collapsed."""
    parts: list[str] = []

    def walk(node: etree._Element) -> None:
        if not isinstance(node.tag, str):
            parts.append(node.tail or "")
            return
        tag = etree.QName(node).localname
        hidden = tag in SKIPPED or node.get("class") in ("MAC", "debug")
        if tag in blocks:
            parts.append("\n")
        if not hidden:
            parts.append(node.text or "")
            for child in node:
                walk(child)
        if tag in blocks:
            parts.append("\n")
        parts.append(node.tail or "")

    walk(root)
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(parts).split("\n"))
    return [unicodedata.normalize("NFC", line) for line in lines if line]


def html_documents(folder: Path, source: str, display_area: bool) -> Iterator[Document]:
    for path in sorted(folder.rglob("*.html")):
        tree = lxml_html.fromstring(path.read_bytes())
        if display_area:
            found = tree.xpath("//*[@id='DisplayArea']")
            if not found:
                continue
            tree = found[0]
            tree.tail = None
        yield source, str(path.relative_to(folder)), lines_of(tree, HTML_BLOCKS)


def gnome_documents(folder: Path) -> Iterator[Document]:
    parser = etree.XMLParser(recover=True, resolve_entities=False, no_network=True)
    for path in sorted(folder.rglob("*.page")):
        root = etree.parse(str(path), parser).getroot()
        for info in root.iter("{*}info"):
            info.clear()
        lines = [html.unescape(line) for line in lines_of(root, MALLARD_BLOCKS)]
        yield "gnome-user-docs", str(path.relative_to(folder)), [x for x in lines if "@" not in x]


def fluent_values(text: str) -> Iterator[str]:
    """Values of a Fluent file: comments, placeables, attribute names and tags removed."""
    value: list[str] = []
    for line in [*text.splitlines(), "end ="]:
        if line.startswith("#"):
            continue
        started = FTL_MESSAGE.match(line)
        if started:
            if value:
                yield " ".join(value)
            value = [started.group(1)]
        elif (
            line.startswith((" ", "\t")) and value and not line.strip().startswith(("[", "*[", "}"))
        ):
            value.append(line.strip())


def firefox_documents(packed: Path) -> Iterator[Document]:
    with zipfile.ZipFile(packed) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".ftl", ".properties")):
                continue
            text = archive.read(name).decode("utf-8", errors="replace")
            if name.endswith(".ftl"):
                values = list(fluent_values(text))
            else:
                pairs = (
                    x.split("=", 1) for x in text.splitlines() if "=" in x and x[0] not in "#!"
                )
                values = [pair[1] for pair in pairs]
            # A brand has a name; a sentence with any other hole in it is no sentence, and goes.
            named = (FTL_VENDOR.sub("Mozilla", FTL_BRAND.sub("Firefox", x)) for x in values)
            clean = (MARKUP.sub("", html.unescape(x)) for x in named)
            lines = [re.sub(r"\s+", " ", unicodedata.normalize("NFC", x)).strip() for x in clean]
            # The locale's own name is part of the path: drop it, so that languages split alike.
            file = re.sub(r"(locale|localization)/[^/]+/", r"\1/", name)
            file = re.sub(r"^(chrome/)[^/]+/", r"\1", file)
            yield (
                "firefox-esr-l10n",
                file,
                [x for x in lines if not any(sign in x for sign in "{}%")],
            )


def documents_of(language: Language, root: Path) -> Iterator[Document]:
    share = root / "usr/share"
    if language.help:
        yield from html_documents(
            share / "libreoffice/help" / language.help / "text", "libreoffice-help", True
        )
    if language.handbook:
        folder = share / "doc/debian-handbook/html" / language.handbook
        yield from html_documents(folder, "debian-handbook", False)
    if language.gnome:
        yield from gnome_documents(share / "help" / language.gnome / "gnome-help")
    if language.firefox:
        for packed in sorted(root.glob("usr/lib/firefox-esr/browser/extensions/*.xpi")):
            locale = packed.name.removeprefix("langpack-").split("@")[0]
            if locale.lower() == language.firefox:
                yield from firefox_documents(packed)


def kept(
    documents: Iterator[Document], language: Language, english: dict[str, set[str]]
) -> Iterator[Document]:
    """Drop short lines, lines seen before, and lines that were left in English."""
    seen: set[str] = set()
    for source, file, lines in documents:
        shortest = FIREFOX_MIN_CHARS if source.startswith("firefox") else language.min_chars
        left_in_english = english.get(source, set()) if language.code != "en" else set()
        good = []
        for line in lines:
            if len(line) >= shortest and line not in seen and line not in left_in_english:
                seen.add(line)
                good.append(line)
        if good:
            yield source, file, good


def is_heldout(source: str, file: str) -> bool:
    """Whether a file is kept from training: 3 of 100, the same in every language."""
    digest = hashlib.sha256(f"{source}:{file}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELDOUT_PERCENT


def shuffled(documents: list[Document]) -> list[Document]:
    """A fixed order that does not follow the alphabet, so that a cap takes from every part."""
    return sorted(documents, key=lambda d: hashlib.sha256(f"order:{d[0]}:{d[1]}".encode()).digest())


def write(path: Path, documents: list[Document], max_bytes: int | None) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    total = 0
    with path.open("w", encoding="utf-8") as out:
        for source, file, lines in documents:
            text = "\n".join(lines)
            size = len(text.encode())
            if max_bytes is not None and total + size > max_bytes:
                continue
            total += size
            out.write(
                json.dumps({"source": source, "file": file, "text": text}, ensure_ascii=False)
            )
            out.write("\n")
    return total


def fetch(work: Path) -> Path:
    """Download and unpack the Debian packages into `work/root`, once."""
    debs, root = work / "debs", work / "root"
    if not root.exists():
        debs.mkdir(parents=True, exist_ok=True)
        names = sorted({name for language in LANGUAGES for name in language.packages})
        subprocess.run(["apt-get", "download", *names, *SHARED_PACKAGES], cwd=debs, check=True)
        for deb in sorted(debs.glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and corpus")
    work = parser.parse_args().work
    root = fetch(work)
    english: dict[str, set[str]] = {}
    for source, _, lines in documents_of(LANGUAGES[0], root):
        english.setdefault(source, set()).update(lines)
    sizes = {}
    for language in LANGUAGES:
        found = shuffled(list(kept(documents_of(language, root), language, english)))
        train = [d for d in found if not is_heldout(d[0], d[1])]
        heldout = [d for d in found if is_heldout(d[0], d[1])]
        available = sum(len("\n".join(lines).encode()) for _, _, lines in train)
        used = write(work / "corpus/train" / f"{language.code}.jsonl", train, language.max_bytes)
        held = write(work / "corpus/heldout" / f"{language.code}.jsonl", heldout, None)
        sizes[language.code] = {"available": available, "train": used, "heldout": held}
        sys.stdout.write(f"{language.code}\t{available}\t{used}\tx{language.epochs}\t{held}\n")
    (work / "corpus/sizes.json").write_text(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    main()
