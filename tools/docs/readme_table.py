"""Writes the table of README.md from the run in results/demo_batch_1; a test keeps it up to date.

python tools/docs/readme_table.py
"""

from pathlib import Path

import lm_eval_specfair as sf

ROOT = Path(__file__).resolve().parents[2]
README, RUN = ROOT / "README.md", ROOT / "results" / "demo_batch_1"
SHOWN = 4  # of the fastest and of the slowest groups
BEGIN, END = "<!-- table: tools/docs/readme_table.py -->\n", "<!-- end of table -->"
HEAD = """\
| language | speed-up, measured | | tokens per pass | bytes per token |
|---|---|---|---|---|
"""


def table(report: sf.Report) -> str:
    """The fastest and the slowest groups, and all requests."""
    names, values = report.names(), report.intervals
    ordered = values["measured_speedup"].sort_values("value", ascending=False).index
    rows = [
        _row(names[group], *(values[metric].loc[group] for metric in _METRICS)) for group in ordered
    ]
    overall = _row("**all requests**", *(report.overall.loc[metric] for metric in _METRICS))
    return HEAD + "\n".join([*rows[:SHOWN], "| … | | | | |", *rows[-SHOWN:], overall]) + "\n"


_METRICS = ("measured_speedup", "mean_acceptance_length", "bytes_per_token")


def _row(name: str, speedup, length, size) -> str:
    low, high = round(speedup.low, 2), round(speedup.high, 2)  # as they are shown
    verdict = "gains" if low > 1 else "loses" if high < 1 else "unclear"
    interval = f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"
    return f"| {name} | {interval} | {verdict} | {length.value:.2f} | {size.value:.2f} |"


def page(text: str, made: str) -> str:
    """README with the table in its place."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + made + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(page(text, table(sf.report(RUN))), encoding="utf-8")
    print("wrote README.md")
