"""The tables of the theorems' bounds: what they say is what the records give by hand."""

import re

import pytest
from msgspec import structs

from lm_eval_specfair.metrics.definitions.closed_forms import textbook_speedup
from lm_eval_specfair.reporting.report.bound_tables import bound_tables
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.reporting.report.report_html import as_html
from lm_eval_specfair.reporting.report.report_text import as_markdown, as_table

from support.pages import Page
from support.synthetic_records import GREEDY, generation, scored, write_folder

SAMPLED = structs.replace(GREEDY, temperature=1.0)
COST = 1 / 12  # .1 s for 40 drafted tokens; .9 s for 30 plain ones


def decoded(tag, doc_id, **sums):
    """28 positions at KL .5 and cross-entropy 1.5 nats, overlap .75; 20 of 28 accepted."""
    return generation(
        f"demo_{tag}",
        doc_id,
        settings=SAMPLED,
        baseline_seconds=0.9,
        baseline_generated_tokens=30,
        **sums,
    )


def given(tag, doc_id, **sums):
    """20 positions; misfits .4 and .55, overlap .7."""
    values = {
        "overlap_sum": 14.0,
        "kl_sum": 10.0,
        "cross_entropy_sum": 30.0,
        "target_entropy_sum": 20.0,
        "num_distribution_positions": 20,
        "target_reference_probability_sum": 12.0,
        "drafter_reference_probability_sum": 9.0,
    }
    return scored(f"demo_{tag}", doc_id, **(values | sums))


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory):
    """Swahili as above. French: KL .08, cross-entropy .5, overlap .9; misfits .4 and .2."""
    records = [decoded("sw", i) for i in range(6)] + [given("sw", i) for i in range(6)]
    records += [
        decoded("fr", i, kl_sum=2.24, cross_entropy_sum=14.0, overlap_sum=25.2) for i in range(6)
    ]
    records += [
        given("fr", i, drafter_reference_probability_sum=16.0, overlap_sum=12.0) for i in range(6)
    ]
    folder = tmp_path_factory.mktemp("runs") / "bounds"
    return build_summary([write_folder(folder, records)], min_requests=5, bounds=True)


def texts(rows):
    return [[cell.text for cell in row] for row in rows]


def test_bounds_stand_beside_what_they_bound(two_languages):
    first, second = bound_tables(two_languages)
    rows = {row[0]: row[1:] for row in texts(first.sections[0])}

    # Pinsker's: 1 - sqrt(.5 / 2), 1 - sqrt(1.5 / 2); for French 1 - sqrt(.04), 1 - sqrt(.25).
    for name, overlaps in (
        ("Swahili (sw)", (1 - 0.75**0.5, 0.5, 0.75)),
        ("French (fr)", (0.5, 0.8, 0.9)),
    ):
        speedups = [textbook_speedup(each, 4, COST) for each in (*overlaps, 20 / 28)]
        assert rows[name] == [f"{each:.3f}" for each in (*overlaps, *speedups)]
    misfits = {row[0]: row[1:] for row in texts(second.sections[0])}
    assert misfits["Swahili (sw)"] == ["0.400", "0.550", "0.050", "0.700", "0.850"]
    assert misfits["French (fr)"] == ["0.400", "0.200", "0.400", "0.600", "0.800"]
    # All requests: KL .29, misfits .4 and .375.
    assert texts(first.sections[1])[0][2] == f"{1 - (0.29 / 2) ** 0.5:.3f}"
    assert texts(second.sections[1])[0][1:] == ["0.400", "0.375", "0.225", "0.650", "0.975"]


def test_each_cell_sorts_by_the_number_that_it_shows(two_languages):
    for bounds in bound_tables(two_languages):
        for row in bounds.sections[0]:
            assert [cell.text for cell in row[1:]] == [f"{cell.value:.3f}" for cell in row[1:]]
            assert len(row) == len(bounds.header)


def test_every_form_has_them_after_the_main_table(two_languages):
    text, (main, folded) = as_html(two_languages), as_markdown(two_languages).split("<details>")
    regions = [each.get("aria-label") for each in Page(text).all("div")]

    for bounds in bound_tables(two_languages):
        assert bounds.title in regions
        for row in texts(bounds.sections[0]):
            cells = r"\s*".join(
                rf'<td data-value="[^"]+"><bdi>{re.escape(cell)}</bdi></td>' for cell in row[1:]
            )
            assert re.search(rf"<bdi>{re.escape(row[0])}</bdi></th>\s*{cells}\s*</tr>", text)
            line = next(line for line in folded.splitlines() if row[0] in line and row[3] in line)
            assert [cell.strip() for cell in line.strip("|").split("|")] == row
    # Folded, after everything else, so that the main table stays what is read first.
    assert "at least" not in main
    assert folded.rstrip().endswith("</details>")
    printed = as_table(two_languages)
    for bounds in bound_tables(two_languages):
        assert printed.index("All requests") < printed.index(bounds.title)
        assert bounds.note[:40] in printed


def test_nobody_gets_them_who_did_not_ask(tmp_path):
    records = [given("sw", i, overlap_sum=15.0) for i in range(6)]
    summary = build_summary([write_folder(tmp_path / "run", records)])

    assert bound_tables(summary) == []
    for form in ("table", "md", "json", "csv", "html"):
        text = render(summary, form)
        assert "at least" not in text
        assert "bound_kl" not in text


def test_what_is_not_known_has_no_table(tmp_path):
    nothing = dict.fromkeys(("kl_sum", "cross_entropy_sum", "target_entropy_sum"))
    records = [
        generation("demo_sw", i, overlap_sum=None, num_distribution_positions=None, **nothing)
        for i in range(3)
    ]
    summary = build_summary([write_folder(tmp_path / "run", records)], min_requests=1, bounds=True)

    assert bound_tables(summary) == []
    assert "theory" not in as_html(summary)
    assert "<details>" not in as_markdown(summary)
