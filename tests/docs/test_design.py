"""DESIGN.md names rooms and functions that exist."""

import pkgutil
import re

from support.markdown import ROOT, blocks

DESIGN = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "lm_eval_specfair"


def section(title: str) -> str:
    return DESIGN.split(f"\n## {title}")[1].split("\n## ")[0]


def test_the_walks_name_functions_that_exist():
    for walk in ("Walk 1", "Walk 2"):
        steps = re.findall(r"^\d+\. ", section(walk), re.MULTILINE)
        named = re.findall(r"`([a-z_.]+:[\w.]+)`", section(walk))
        assert len(steps) == 10
        assert len(named) >= 10
        assert all(map(exists, named))


def exists(name: str) -> bool:
    """Whether `module:function` is there; an error says which is not."""
    return bool(pkgutil.resolve_name(f"lm_eval_specfair.{name}"))


def test_the_decisions_name_functions_that_exist():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        for name in re.findall(r"`([a-z_.]+:[A-Za-z_.]+)`", page.read_text(encoding="utf-8")):
            assert exists(name)


def test_every_room_is_in_the_house_and_nothing_else_is():
    (house,) = blocks(DESIGN, "text")
    named = {
        word
        for line in house.splitlines()
        for word in re.match(r"((?:\w+(?:, )?)+)  ", line)[1].split(", ")
    }
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    found |= {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert named == found - {"__init__", "__main__"}


def test_it_is_short():
    assert len(DESIGN.splitlines()) <= 130
