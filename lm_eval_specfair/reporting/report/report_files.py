"""A report as files."""

from pathlib import Path

from lm_eval_specfair.files import write_files
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.build_report import render
from lm_eval_specfair.reporting.report.report_html import as_html
from lm_eval_specfair.reporting.report.report_plots import as_svg
from lm_eval_specfair.reporting.report.report_text import as_markdown

PLOT_FILE = "acceptance.svg"


def write_report(summary: Summary, directory: Path) -> list[Path]:
    """Write `report.md`, `.json`, `.csv`, `.html` and the plot.

    Args:
        summary: The estimates.
        directory: Made where it is missing; what it holds under these names is replaced.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    contents = {
        "report.md": as_markdown(summary, plot=PLOT_FILE),
        "report.json": f"{render(summary, 'json')}\n",
        "report.csv": render(summary, "csv"),
        "report.html": as_html(summary),
        PLOT_FILE: as_svg(summary),
    }
    return write_files(directory, contents)
