"""`specfair compare`: what another drafter changes, for whom, and whether a gate lets it pass."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.console import add_group_source, name_files
from lm_eval_specfair.errors import ConfigError


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "compare",
        help="compare drafters on the same requests, and gate them",
        description=(
            "Compare candidates with a base, request by request. The runs must agree in tasks, "
            "documents, target and decoding settings, all but the drafter and its draft length. "
            "With --gate the exit status is 1 where a candidate breaks a limit."
        ),
        epilog="example: specfair compare results/old results/new --gate gate.yaml --format md",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="folder of the run to compare with")
    parser.add_argument(
        "candidates", nargs="+", type=Path, metavar="CANDIDATE", help="folders of other runs"
    )
    parser.add_argument(
        "--group-by",
        default="language",
        metavar="FIELD",
        help="what makes a group, such as language or script (default: %(default)s)",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="your own groups of tasks and languages, as YAML, JSON or CSV (docs/attribution.md)",
    )
    add_group_source(parser)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="the metric that tables show (default: the gate's, else modelled_speedup where it was "
        "measured, else mean_acceptance_length); json and csv hold all",
    )
    parser.add_argument(
        "--min-requests",
        type=int,
        default=5,
        metavar="N",
        help="groups with fewer requests are not compared (default: %(default)s)",
    )
    parser.add_argument(
        "--all-measures",
        action="store_true",
        help="every measure of spread; by default difference, ratio, coefficient of variation, "
        "Gini and U (variance less noise)",
    )
    parser.add_argument(
        "--gate",
        metavar="FILE",
        help="YAML file with limits for the candidates; `default` for the limits that need no file",
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="also write the gate's verdicts as JUnit XML"
    )
    parser.add_argument(
        "--format",
        default="table",
        choices=["table", "md", "json", "csv", "html"],
        help="what is printed (default: %(default)s)",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Print the comparison, write the verdicts where asked; the exit status."""
    from lm_eval_specfair.files import write_file
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison, read_gate
    from lm_eval_specfair.reporting.comparison.compare_text import as_junit, render

    if arguments.junit is not None and arguments.gate is None:
        raise ConfigError("--junit writes a gate's verdicts: name the gate with --gate FILE")
    if arguments.min_requests < 1:
        raise ConfigError(f"--min-requests must be at least 1, got {arguments.min_requests}")
    gate = None if arguments.gate is None else read_gate(arguments.gate)
    report = build_comparison(
        arguments.base,
        arguments.candidates,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        metric=arguments.metric,
        gate=gate,
        min_requests=arguments.min_requests,
        all_measures=arguments.all_measures,
    )
    text = render(report, arguments.format)
    if arguments.junit is not None:
        name_files([write_file(arguments.junit, as_junit(report))])
    print(text)
    return 0 if report.passed else 1
