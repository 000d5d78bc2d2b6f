"""`specfair leaderboard`: entries ranked by how the worst-served group fares."""

import argparse
import sys
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, name_files


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "leaderboard",
        help="rank entries: a static page and a Markdown table",
        description=(
            "Compute every entry of a folder again from its records, rank them by the worst "
            "group's speed-up and by the mean, and write leaderboard.html and leaderboard.md. "
            "Entries that differ in more than their drafter stand in tables of their own. One that "
            "does not agree with its records is named, and the exit status is 2; the others are "
            "ranked."
        ),
        epilog="example: specfair leaderboard entries -o public",
    )
    entries = "folder with a folder for each entry"
    parser.add_argument("directory", type=Path, metavar="DIR", help=entries)
    add_shared(parser, "--output", required=True, help="where the files go")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.files import write_files
    from lm_eval_specfair.reporting.leaderboard import board

    entries = board.read_entries(arguments.directory)
    page, table = board.as_html(entries).encode(), board.as_markdown(entries).encode()
    files = {board.PAGE_FILE: page, board.MARKDOWN_FILE: table}
    name_files(write_files(arguments.output, files))
    for name, reason in entries.refused.items():
        print(f"specfair: refused: {name}: {reason}", file=sys.stderr)
    return 2 if entries.refused else 0
