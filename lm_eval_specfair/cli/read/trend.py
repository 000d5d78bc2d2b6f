"""`specfair trend`: what runs of the same requests say one after the other, and where it broke."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least, name_files


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "trend",
        help="each group over time, and where it broke",
        description=(
            "Read a folder of runs, of comparisons as JSON (with what their gates said), or of "
            "submissions, in the order of their dates, and find the first one in which a group "
            "left its former level. Measurements of another target, of other tasks, requests or "
            "settings make series of their own, which say in what they differ."
        ),
        epilog="example: specfair trend results/nightly -o public",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder, read with those in it")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="the metric shown (default: mean_acceptance_length, in which greedy decoding has no "
        "clock)",
    )
    add_shared(parser, "--group-by", "--groups", "--group-source")
    few = "of runs, groups with fewer requests are left out (default: %(default)s)"
    add_shared(parser, "--min-requests", help=few)
    parser.add_argument(
        "--false-alarm-rate",
        type=at_least(0.000001, float, most=0.5),
        default=0.05,
        metavar="RATE",
        help="chance that a series in which nothing changes has any break (default: %(default)s)",
    )
    add_shared(parser, "--format", choices=["table", "md", "json", "html"])
    add_shared(parser, "--output", help="also write trend.md, .json and .html here")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.trend.build_trend import build_trend
    from lm_eval_specfair.reporting.trend.trend_text import render_trend, write_trend

    trend = build_trend(
        arguments.directory,
        metric=arguments.metric,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
        rate=arguments.false_alarm_rate,
    )
    print(render_trend(trend, arguments.format))
    if arguments.output is not None:
        name_files(write_trend(trend, arguments.output))
    return 0
