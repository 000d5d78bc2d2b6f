"""Tables, reports and figures of what run.py left, for results/pretrained: counts, no texts.

    python experiments/pretrained/tables.py --work work -o results/pretrained

Writes a page for each target (TARGET.md), `stability.md` (does the order of languages carry over?),
`orders.md` and `explained.md` (what goes with acceptance), `answers.md` (acceptance beside answers,
where they are scored), the product's own report of each run (`reports/`), all values with their
intervals (`values.csv`), and figures. Intervals are of 2,000 resamples of documents; replays of one
run's texts are resampled alike.
"""

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

from answer_tables import answers_page, within_table
from cells import RATE, TITLES, estimate, languages_of, shown, table
from claims import correlation_rows, rank_rows
from figures import draw
from run_values import METRICS, OF_REFERENCES, OF_TEXTS, Measured, measured
from stability_tables import stability_page

from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.reporting.report.build_report import render
from lm_eval_specfair.reporting.report.headline import headline


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    found = measured(args.work)
    (args.output / "reports").mkdir(parents=True, exist_ok=True)
    write_values(found, args.output / "values.csv")
    for one in found:
        path = args.output / "reports" / f"{one.target}-{one.data}-{one.kind}.md"
        # Where the models lay is of no interest to others.
        text = re.sub(r"/\S*/(?=models/)", "", render(one.summary, "md"))
        path.write_text(text, "utf-8")
    for target in dict.fromkeys(one.target for one in found):
        text = page_of(target, [one for one in found if one.target == target])
        (args.output / f"{target}.md").write_text(text, "utf-8")
    (args.output / "stability.md").write_text(stability_page(found), "utf-8")
    (args.output / "explained.md").write_text(explained_page(found), "utf-8")
    (args.output / "orders.md").write_text(orders_page(found), "utf-8")
    if any(one.is_scored for one in found):
        (args.output / "answers.md").write_text(answers_page(found), "utf-8")
    draw(found, args.output)


def write_values(found: Sequence[Measured], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["target", "data", "drafter", "language", "metric", "value", "low", "high"])
        for one in found:
            for language in sorted(one.summary.groups):
                for metric in METRICS:
                    value = estimate(one, language, metric)
                    if value is not None:
                        ends = ["" if x is None else f"{x:.5g}" for x in (value.low, value.high)]
                        row = [one.target, one.data, one.kind, language, metric]
                        writer.writerow([*row, f"{value.value:.5g}", *ends])


def page_of(target: str, found: Sequence[Measured]) -> str:
    """All tables of a target, data set by data set."""
    parts = [f"# {target}\n", "Made by `experiments/pretrained/tables.py`; do not edit.\n"]
    for data in dict.fromkeys(one.data for one in found):
        of_data = [one for one in found if one.data == data]
        parts.append(f"## {data}\n")
        for one in of_data:
            warnings = [line for line in headline(one.summary) if "Loops" in line]
            parts += [f"- Of {one.kind} its report says: {line}" for line in warnings]
        parts.append("")
        for metric in (RATE, "mean_acceptance_length", "bytes_per_step", "overlap"):
            name = "steps_per_kilobyte" if metric == "bytes_per_step" else metric
            measured_by = [one for one in of_data if one.summary.overall.get(name)]
            if measured_by:
                parts.append(by_drafter(measured_by, metric))
        texts = [m for m in OF_TEXTS if of_data[0].summary.overall.get(m)]
        parts.append(columns_table(of_data[0], "The texts", texts))
        with_references = [one for one in of_data if one.summary.overall.get("scored_agreement")]
        if with_references:
            parts.append(by_drafter(with_references, "scored_agreement"))
            parts.append(by_drafter(with_references, "scored_overlap"))
            parts.append(
                by_drafter(with_references, "drafter_bits_per_byte", beside="bits_per_byte")
            )
    return "\n".join(parts)


def by_drafter(found: Sequence[Measured], metric: str, *, beside: str | None = None) -> str:
    names = languages_of(found)
    if metric in OF_REFERENCES:
        names = [n for n in names if estimate(found[0], n, metric)]
    digits = 1 if metric == "bytes_per_step" else 2
    rows = []
    for name in names:
        row = [f"{name} ({languages()[name].resource_class})"]
        if beside:
            row.append(shown(estimate(found[0], name, beside), digits, interval=False))
        row += [
            shown(estimate(one, name, metric) if name in one.summary.groups else None, digits)
            for one in found
        ]
        rows.append(row)
    header = [
        "language (class)",
        *([TITLES[beside]] if beside else []),
        *(one.kind for one in found),
    ]
    return f"### {TITLES[metric]}\n\n{table(rows, header)}\n"


def columns_table(one: Measured, title: str, metrics: Sequence[str]) -> str:
    names = languages_of([one])
    rows = [
        [
            f"{name} ({languages()[name].resource_class})",
            *(shown(estimate(one, name, m)) for m in metrics),
        ]
        for name in names
    ]
    return f"### {title}\n\n{table(rows, ['language (class)', *(TITLES[m] for m in metrics)])}\n"


def explained_page(found: Sequence[Measured]) -> str:
    """R squared of each covariate alone and of all together."""
    names: list[tuple[str, ...]] = []
    for one in found:
        for each in one.summary.explained:
            if len(each.by) == 1 and tuple(each.by) not in names:
                names.append(tuple(each.by))
    parts = []
    for figure in (RATE, "overlap", "scored_agreement"):
        rows = []
        for one in found:
            of = {tuple(each.by): each for each in one.summary.explained if each.figure == figure}
            if not of:
                continue
            cells = [_share(of.get(name)) for name in names]
            together = [each for by, each in of.items() if len(by) > 1]
            cells.append(_share(together[0], adjusted=True) if together else "")
            rows.append([one.target, one.data, one.kind, *cells])
        header = [
            "target",
            "data",
            "drafter",
            *(TITLES.get(n, n.replace("_", " ")) for (n,) in names),
        ]
        if rows:
            parts.append(f"## {TITLES[figure]}\n\n{table(rows, [*header, 'all together'])}\n")
    own = [one for one in found if one.kind != "smollm2"]
    within = within_table(own, lambda one: one.repetition)
    body = "\n".join(parts)
    return f"""# What goes with acceptance

Made by `experiments/pretrained/tables.py`; do not edit. R² across languages of linear regressions,
alone, with 95% over documents in brackets (it leans to low values) and p of permutations; together
also adjusted for their number.

{body}
## Within a language

Acceptance against the share of repeated 4-grams of the same text, with a level for each language:
the slope is the change of acceptance from a text without repetition to one of nothing else. p of
exchanges within languages.

{within}
"""


def orders_page(found: Sequence[Measured]) -> str:
    """English's rank, and rank correlations over languages."""
    own = [one for one in found if one.kind != "smollm2"]
    ranks = table(rank_rows(own), ["target", "data", "drafter", "by", "rank", "95%"])
    header = ["target", "data", "drafter", "of", "and", "languages", "Spearman", "95%", "p"]
    return f"""# Orders of languages

Made by `experiments/pretrained/tables.py`; do not edit. Intervals over documents (rank correlations
of noisy values lean to 0); p of permutations, each by itself.

## English's rank

{ranks}

## What goes with what

{table(correlation_rows(own), header)}
"""


def _share(each: object, *, adjusted: bool = False) -> str:
    if each is None:
        return ""
    text = f"{each.r_squared:.2f}"  # type: ignore[attr-defined]
    if each.low is not None:  # type: ignore[attr-defined]
        text += f" [{each.low:.2f}, {each.high:.2f}]"  # type: ignore[attr-defined]
    if adjusted:
        text += f", adjusted {each.r_squared_adjusted:.2f}"  # type: ignore[attr-defined]
    return f"{text} (p {each.p_value:.2g})"  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
