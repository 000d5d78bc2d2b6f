"""`specfair compare`: what another drafter changes, for whom, and whether a gate lets it pass."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.shared.outputs import file_to_write
from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, name_files
from lm_eval_specfair.errors import ConfigError


def add_parser(verbs: Verbs) -> None:
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
    add_shared(parser, "--group-by", "--groups", "--group-source")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="the metric that tables show (default: the gate's, else modelled_speedup where it was "
        "measured, else mean_acceptance_length); json and csv hold all",
    )
    few = "groups with fewer requests are not compared (default: %(default)s)"
    add_shared(parser, "--min-requests", help=few)
    add_shared(parser, "--all-measures")
    parser.add_argument(
        "--gate",
        metavar="FILE",
        help="YAML file with limits for the candidates; `default` for the limits that need no file",
    )
    together = "one false alarm rate over all candidates; by default each is judged on its own"
    parser.add_argument("--family-wise", action="store_true", help=together)
    junit = "also write the gate's verdicts as JUnit XML"
    parser.add_argument("--junit", type=file_to_write, metavar="FILE", help=junit)
    add_shared(parser, "--format", choices=["table", "md", "json", "csv", "html"])
    add_shared(parser, "--output", help="also write comparison.md, .json, .csv and .html here")
    add_shared(parser, "--no-texts")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.files import write_file
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison, read_gate
    from lm_eval_specfair.reporting.comparison.compare_text import (
        as_junit,
        render,
        write_comparison,
    )
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

    if arguments.junit is not None and arguments.gate is None:
        raise ConfigError("--junit writes a gate's verdicts: name the gate with --gate FILE")
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
        family_wise=arguments.family_wise,
    )
    viewer = None
    if not arguments.no_texts:
        viewer = RequestViewer(
            run_dirs=[arguments.base, *arguments.candidates],
            group_by=arguments.group_by,
            mapping=user_groups(arguments.groups, arguments.group_source),
            compares=True,
        )
    print(render(report, arguments.format, viewer))
    if arguments.output is not None:
        name_files(write_comparison(report, arguments.output, viewer))
    if arguments.junit is not None:
        name_files([write_file(arguments.junit, as_junit(report))])
    return 0 if report.passed else 1
