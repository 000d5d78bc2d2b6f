"""`specfair fetch-data`: fill a local mirror with what a suite reads."""

import argparse
import sys
from pathlib import Path

from lm_eval_specfair.cli.shared.outputs import folder_to_write
from lm_eval_specfair.cli.shared.parser import Verbs
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.files import replacing


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "fetch-data",
        help="fill a local mirror with the data of a suite",
        description=(
            "Fetch what a suite reads from the hub into a folder, as "
            "DIR/<data set>/<configuration>/<split>.parquet. Evaluations look there first where "
            "the environment variable SPECFAIR_DATA_DIR names it. What is already there stays."
        ),
        epilog="example: specfair fetch-data xnli_multi -o data; "
        "then: SPECFAIR_DATA_DIR=data specfair run --tasks xnli_multi",
    )
    parser.add_argument("suite", metavar="SUITE", help="a group or a task, such as specfair_core")
    parser.add_argument("-o", "--out", metavar="DIR", type=folder_to_write, help="the mirror")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="fetch nothing: print each file of the mirror, and the columns with their types",
    )
    optional = "leave out the splits that only few-shot prompts need"
    parser.add_argument("--no-examples", action="store_true", help=optional)
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        _print_layout(arguments)
        return 0
    import datasets
    from tqdm import tqdm

    from lm_eval_specfair.harness.suites.catalogue import needs
    from lm_eval_specfair.harness.suites.mirror import fetch_split, mirror_files, split_path

    mirror: Path | None = arguments.out
    if mirror is None:
        raise ConfigError("expected -o DIR, the mirror to fill, or --dry-run: name a folder")
    missing = [
        need
        for need in needs(arguments.suite)
        if not (arguments.no_examples and need.is_optional)
        and not mirror_files(mirror, need.dataset, need.config, need.split)
    ]
    datasets.disable_progress_bars()  # one for each file, below the one of all
    failed = []
    for need in tqdm(missing, desc="Fetching", unit="split", disable=None):
        path = split_path(mirror, need.dataset, need.config, need.split).with_suffix(".parquet")
        try:
            rows = fetch_split(need.dataset, need.config or None, need.split)
            with replacing(path) as fresh:
                rows.to_parquet(fresh)
        except OSError as error:
            kind = "could do without" if need.is_optional else "failed"
            print(f"specfair: {kind}: {path}: {one_line(error)}", file=sys.stderr)
            failed += [] if need.is_optional else [f"{need.dataset} ({need.config}, {need.split})"]
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise ConfigError(
            f"expected {len(missing)} splits from the hub, {failed[0]}{more} could not be fetched "
            "(the reasons are above): see to the network or the data set's terms and run it again; "
            "what has come stays."
        )
    print(mirror)
    return 0


def _print_layout(arguments: argparse.Namespace) -> None:
    """Print a block for each data set: its columns, then its files."""
    from lm_eval_specfair.harness.suites.catalogue import needs
    from lm_eval_specfair.harness.suites.column_types import type_of
    from lm_eval_specfair.harness.suites.mirror import mirror_files, split_path
    from lm_eval_specfair.harness.suites.suite_sources import SOURCES

    mirror = arguments.out or Path("DIR")
    dataset = None
    for need in needs(arguments.suite):
        if arguments.no_examples and need.is_optional:
            continue
        if need.dataset != dataset:
            dataset, source = need.dataset, SOURCES.get(need.dataset)
            columns, licence = "as on the hub", ""
            if source is not None:
                columns = ", ".join(f"{name} ({type_of(source, name)})" for name in source.read)
                licence = f", {source.licence}"
            print(f"{dataset}{licence}\n  columns: {columns}")
        path = split_path(mirror, need.dataset, need.config, need.split)
        files = mirror_files(mirror, need.dataset, need.config, need.split)
        use = "few-shot examples" if need.is_optional else "evaluated"
        print(f"  {path}.parquet or .jsonl: {use}, {'there' if files else 'missing'}")
