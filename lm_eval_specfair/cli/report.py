"""`specfair report`: who got the speed-up, in the records of finished runs."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.console import add_group_source, name_files
from lm_eval_specfair.errors import ConfigError


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "report",
        help="the disparity report of one run, or of several together",
        description="Print the disparity report of one run, or of several runs together.",
        epilog="example: specfair report results/runs/demo --group-by script --format md",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="folder with run.json and records; several are read together",
    )
    parser.add_argument(
        "--group-by",
        default="language",
        metavar="FIELD",
        help="what makes a group: language, script, family, macroarea, resource_class, task, or a "
        "field of documents, tasks or the --groups file; several, with commas, give overlapping "
        "groups (default: %(default)s)",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="your own groups of tasks and languages, as YAML, JSON or CSV (docs/attribution.md)",
    )
    add_group_source(parser)
    parser.add_argument(
        "--format",
        default="table",
        choices=["table", "md", "json", "csv", "html"],
        help="what is printed (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="also write the report's files here"
    )
    parser.add_argument(
        "--min-requests",
        type=int,
        default=5,
        metavar="N",
        help="groups and estimates with fewer requests are listed as not reported (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="PATH",
        help="lm-eval's samples (--log_samples), for the answer quality of groups; by default "
        "those below RUN_DIR",
    )
    parser.add_argument(
        "--quality-metric",
        metavar="NAME",
        help="their metric, such as exact_match or exact_match,flexible-extract (default: the "
        "first whose values are from 0 to 1)",
    )
    parser.add_argument(
        "--all-measures",
        action="store_true",
        help="every measure of spread; by default difference, ratio, coefficient of variation, "
        "Gini and U (variance less noise)",
    )
    parser.add_argument(
        "--bounds",
        action="store_true",
        help="also the bounds of overlap and speed-up that theory gives",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Print the report, write its files where asked; the exit status."""
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.report.build_report import build_summary, render

    if arguments.min_requests < 1:
        raise ConfigError(f"--min-requests must be at least 1, got {arguments.min_requests}")
    summary = build_summary(
        arguments.run_dirs,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
        samples=arguments.samples,
        quality_metric=arguments.quality_metric,
        all_measures=arguments.all_measures,
        bounds=arguments.bounds,
    )
    text = render(summary, arguments.format)
    if arguments.output is not None:
        from lm_eval_specfair.reporting.report.report_files import write_report

        name_files(write_report(summary, arguments.output))
    print(text)
    return 0
