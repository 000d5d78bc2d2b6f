"""A report as files."""

from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.build_report import render
from lm_eval_specfair.reporting.report.plots import plot
from lm_eval_specfair.reporting.report.report_html import as_html
from lm_eval_specfair.reporting.report.report_text import as_markdown

PLOT_FILE = "acceptance.png"


def write_report(summary: Summary, directory: Path) -> list[Path]:
    """Write `report.md`, `.json`, `.csv`, `.html` and the plot.

    Each file appears whole or not at all.

    Args:
        summary: The numbers.
        directory: Made where it is missing; what it holds under these names is replaced.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be made or written.
    """
    image = plot(summary)
    contents = {
        "report.md": as_markdown(summary, plot=PLOT_FILE).encode(),
        "report.json": f"{render(summary, 'json')}\n".encode(),
        "report.csv": render(summary, "csv").encode(),
        "report.html": as_html(summary).encode(),
        PLOT_FILE: image,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            fresh = directory / f"{name}.writing"
            fresh.write_bytes(content)
            fresh.replace(directory / name)
    except OSError as error:
        raise ConfigError(
            f"cannot write the report into {directory}: {error.strerror}; name a folder that can "
            "be written"
        ) from None
    return [directory / name for name in contents]
