"""`specfair export`: a run's records as Parquet, for data frames and archives, and back."""

import argparse

from lm_eval_specfair.cli.shared.outputs import place_to_write
from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, name_files


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "export",
        help="a run's records as Parquet, or as JSON Lines again",
        description=(
            "Write a run's records as Parquet: typed columns, one row a request, without loss. A "
            "name that ends in .parquet, .jsonl or .csv is one file (CSV for spreadsheets: it is "
            "not read back); any other is a new folder with run.json beside the records, which "
            "report, compare, policy and submission read like the run's own. No file is written "
            "over without --force."
        ),
        epilog="example: specfair export results/runs/demo -o demo.parquet",
    )
    add_shared(parser, "run_dir")
    where = "FILE.parquet, FILE.jsonl, FILE.csv or a new folder"
    add_shared(parser, "--output", type=place_to_write, required=True, metavar="PATH", help=where)
    form = "of the records (default: what the file's name says; parquet in a folder)"
    parser.add_argument("--format", choices=["parquet", "jsonl", "csv"], help=form)
    parser.add_argument("--force", action="store_true", help="write over a file that exists")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lm_eval_specfair.records import export_run

    files = export_run(
        arguments.run_dir,
        arguments.output,
        form=None if arguments.format is None else f".{arguments.format}",
        force=arguments.force,
        watch=lambda records: tqdm(records, desc="Exporting", unit=" records", disable=None),
    )
    name_files(files)
    return 0
