"""`specfair submission`: make a leaderboard entry from a run, and check one against its records."""

import argparse
import json
import sys
from pathlib import Path

from lm_eval_specfair.cli.shared.outputs import refuse_unwritable_file
from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, name_files
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "submission",
        help="make a leaderboard entry, or check one",
        description="Make a leaderboard entry from a run, or check one against its records.",
        epilog='example: specfair submission pack results/new --name "small drafter, balanced"',
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    packing = actions.add_parser(
        "pack",
        help="write submission.json beside a run's records",
        description="Compute a run's estimates and write them into its folder, as submission.json. "
        "That folder is the entry.",
        epilog='example: specfair submission pack results/new --name "small drafter, balanced"',
    )
    add_shared(packing, "run_dir")
    packing.add_argument("--name", required=True, help="the entry's name on the board")
    packing.add_argument("--submitter", help="who answers for it")
    packing.add_argument("--url", help="where to read more (https)")
    add_shared(packing, "--group-by")
    packing.set_defaults(handler=_pack)
    validating = actions.add_parser(
        "validate",
        help="compute an entry's estimates again from its records",
        description="Compute everything in entries again from their records; what does not agree "
        "is named, and the exit status is 2. All entries are looked at, whatever one of them says.",
        epilog="example: specfair submission validate entries/*",
    )
    validating.add_argument(
        "entries", nargs="+", type=Path, metavar="ENTRY", help="an entry's folder, or its file"
    )
    validating.set_defaults(handler=_validate)
    describing = actions.add_parser(
        "schema",
        help="print the JSON Schema of submissions",
        description="Print the JSON Schema of submission.json.",
        epilog="example: specfair submission schema > submission.schema.json",
    )
    describing.set_defaults(handler=_schema)


def _pack(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.files import write_file
    from lm_eval_specfair.reporting.leaderboard.entry import SUBMISSION_FILE, Entry, to_text
    from lm_eval_specfair.reporting.leaderboard.packing import pack

    try:
        entry = Entry(name=arguments.name, submitter=arguments.submitter, url=arguments.url)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    refuse_unwritable_file(arguments.run_dir / SUBMISSION_FILE)
    text = to_text(pack(arguments.run_dir, entry, group_by=arguments.group_by))
    name_files([write_file(arguments.run_dir / SUBMISSION_FILE, text)])
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.leaderboard.validation import validate

    wrong = 0
    for entry in arguments.entries:
        try:
            validate(entry)
            print(f"specfair: {one_line(entry)} agrees with its records", file=sys.stderr)
        except ConfigError as error:
            wrong += 1
            print(f"specfair: error: {one_line(error)}", file=sys.stderr)
    if len(arguments.entries) > 1:
        sound = len(arguments.entries) - wrong
        print(
            f"specfair: {sound} of {len(arguments.entries)} entries agree with their records",
            file=sys.stderr,
        )
    return 2 if wrong else 0


def _schema(_arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.leaderboard.entry import schema

    print(json.dumps(schema(), indent=2))
    return 0
