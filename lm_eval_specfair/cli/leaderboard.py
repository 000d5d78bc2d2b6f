"""`specfair leaderboard`: entries ranked by how the worst-served group fares."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.console import name_files


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "leaderboard",
        help="rank entries: a static page and a Markdown table",
        description=(
            "Compute every entry of a folder again from its records, rank them by the worst "
            "group's speed-up and by the mean, and write leaderboard.html and leaderboard.md."
        ),
        epilog="example: specfair leaderboard entries -o public",
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="folder with a folder for each entry"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="where the files go"
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Write the board; the exit status."""
    from lm_eval_specfair.files import write_files
    from lm_eval_specfair.reporting.leaderboard.board import (
        MARKDOWN_FILE,
        PAGE_FILE,
        as_html,
        as_markdown,
        read_entries,
    )

    entries = read_entries(arguments.directory)
    files = {
        PAGE_FILE: as_html(entries).encode(),
        MARKDOWN_FILE: as_markdown(entries).encode(),
    }
    name_files(write_files(arguments.output, files))
    return 0
