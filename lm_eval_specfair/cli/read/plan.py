"""`specfair plan`: how many documents a group a gate needs to find a loss, from a pilot."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared

_EXAMPLES = """\
examples:
  two drafters on the same few documents; which --limit shows a loss of 5% in any language?
    specfair plan results/served results/proposed --margin 0.05
  one run: the same, as if the two runs shared no document (mostly more than a pair needs)
    specfair plan results/served --margin 0.05 --power 0.9
  the limits of your gate, each with what it allows:
    specfair plan results/served results/proposed --gate gate.yaml --margin 0.1
  for a script:
    specfair plan results/served results/proposed --json
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "plan",
        help="how many documents a comparison needs to find a loss",
        description="How many documents a group `specfair compare --gate` needs to find a loss, "
        "from the variance between the documents of a pilot, a small run or two. Without --gate "
        "the gate is one on each group (any_group), and one on the mean alone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", type=Path, metavar="RUN", help="folder of a run: the pilot")
    parser.add_argument(
        "candidate",
        nargs="?",
        type=Path,
        metavar="OTHER",
        help="folder of another drafter's run of the same requests, for a paired pilot",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="the loss to be found, as a share of the base's value (default: %(default)s)",
    )
    parser.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="in which share of cases it is to be found (default: %(default)s)",
    )
    parser.add_argument(
        "--allowed",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the loss that a group may have; a gate says its own (default: %(default)s)",
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        metavar="RATE",
        help="of the gate, over its limits (default: the gate's, else 0.05)",
    )
    parser.add_argument("--gate", metavar="FILE", help="a gate's YAML file, or `default`")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="what is lost (default: the gate's, else modelled_speedup where it was measured, else "
        "mean_acceptance_length)",
    )
    add_shared(parser, "--group-by", "--groups", "--group-source")
    few = "groups with fewer requests are left out (default: %(default)s)"
    add_shared(parser, "--min-requests", help=few)
    add_shared(parser, "--format", choices=["table", "md", "json", "csv"])
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="as --format json"
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.comparison.build_comparison import read_gate
    from lm_eval_specfair.reporting.comparison.build_plan import build_plan
    from lm_eval_specfair.reporting.comparison.plan_text import render_plan

    pilot = [arguments.base, *([arguments.candidate] if arguments.candidate else [])]
    plan = build_plan(
        pilot,
        loss=arguments.margin,
        power=arguments.power,
        allowed=arguments.allowed,
        false_alarm_rate=arguments.false_alarm_rate,
        gate=None if arguments.gate is None else read_gate(arguments.gate),
        metric=arguments.metric,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
    )
    print(render_plan(plan, arguments.format))
    return 0
