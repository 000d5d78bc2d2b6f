"""The pages of metrics, of the command line and of supported models say what the code says."""

import json
import pkgutil
import re
import sys

import pytest

from lm_eval_specfair.conformance.tiny_families import FAMILIES
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.rates import UNCERTAIN
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.metrics.percentiles import PERCENTILES

from support.markdown import ROOT
from support.recurrent_families import RECURRENT

DOCS = ROOT / "docs"
METRICS_PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
ASPECTS = ("Formula", "Unit, range", "Elsewhere", "Misleads")


def section(page: str, title: str) -> str:
    """What follows a heading, up to the next of its level or above."""
    level, _, _ = title.partition(" ")
    end = rf"^#{{1,{len(level)}}} "
    return re.split(end, page.split(f"\n{title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def names(text: str) -> set[str]:
    return set(re.findall(r"`([\w-]+)`", text))


def test_every_metric_has_its_place_and_nothing_else_does():
    headings = re.findall(r"^### (.+)$", METRICS_PAGE, re.MULTILINE)
    told = set().union(*map(names, headings))
    positions = {name for name in told if re.fullmatch(r"(conditional_)?acceptance_at_\d+", name)}

    assert told - positions == {metric.name for metric in (*METRICS, *COSTS, *PERCENTILES)}
    assert len(positions) == 5
    for heading, metrics in (("## Bounds", BOUNDS), ("## Uncertain texts", UNCERTAIN)):
        keys = re.findall(r"^\| (`.+?) \|", section(METRICS_PAGE, heading), re.MULTILINE)
        assert set().union(*map(names, keys)) == {metric.name for metric in metrics}


def test_every_metric_says_formula_unit_other_names_and_when_it_misleads():
    for heading in re.findall(r"^### .+$", METRICS_PAGE, re.MULTILINE):
        told = re.findall(r"^- \*\*(.+?)\*\*: \S", section(METRICS_PAGE, heading), re.MULTILINE)
        assert tuple(told) == ASPECTS, heading


def test_functions_and_tests_of_the_formulas_exist():
    table = section(METRICS_PAGE, "## Formulas, functions and tests")
    for path in re.findall(r"`((?:tests|experiments)/[\w/.]+)`", table):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", table):
        assert pkgutil.resolve_name(f"lm_eval_specfair.{name}")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words defaults by version")
def test_the_page_of_the_command_line_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "docs")
    import cli_page

    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), (
        "run: python tools/docs/cli_page.py"
    )


OUTCOMES = json.loads((DOCS / "support_families.json").read_bytes())["families"]


def test_the_table_of_families_is_what_the_command_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import support_table

    outcomes = json.loads(support_table.OUTCOMES.read_bytes())
    assert support_table.PAGE.read_text(encoding="utf-8") == support_table.page(outcomes), (
        "run: python tools/support_table.py"
    )


def test_every_family_was_tried_and_none_is_wrong():
    assert set(OUTCOMES) == set(FAMILIES) | set(RECURRENT)
    assert len(OUTCOMES) >= 60
    found = {outcome for each in OUTCOMES.values() for outcome in each.values()}
    assert "failed" not in found
    assert all({"target", "drafter"} <= set(each) for each in OUTCOMES.values())
