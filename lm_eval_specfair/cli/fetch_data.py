"""`specfair fetch-data`: fill a local mirror with what a suite reads."""

import argparse
import sys
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.files import replacing


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
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
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="the mirror")
    parser.add_argument(
        "--no-examples",
        action="store_true",
        help="leave out the splits that only few-shot prompts need",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Fetch what is missing; the exit status."""
    import datasets
    from tqdm import tqdm

    from lm_eval_specfair.harness.suites.catalogue import needs
    from lm_eval_specfair.harness.suites.mirror import fetch_split, mirror_files, split_path

    mirror: Path = arguments.out
    if mirror.exists() and not mirror.is_dir():
        raise ConfigError(f"expected a folder for -o, {mirror} is a file: name another")
    wanted = [
        need
        for need in needs(arguments.suite)
        if not (arguments.no_examples and need.is_optional)
        and not mirror_files(mirror, need.dataset, need.config, need.split)
    ]
    datasets.disable_progress_bars()  # one for each file, below the one of all
    failed = []
    for need in tqdm(wanted, desc="Fetching", unit="split", disable=None):
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
            f"expected {len(wanted)} splits from the hub, {failed[0]}{more} could not be fetched "
            "(the reasons are above): see to the network or the data set's terms and run it again; "
            "what has come stays."
        )
    print(mirror)
    return 0
