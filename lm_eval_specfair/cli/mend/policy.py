"""`specfair policy`: the draft length that serves each group best, from the records of runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_specfair.cli.shared.outputs import file_to_write
from lm_eval_specfair.cli.shared.parser import (
    Verbs,
    add_shared,
    at_least,
    name_files,
    three_numbers,
)
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file

if TYPE_CHECKING:
    from lm_eval_specfair.reporting.policy.gateway_table import Upstream

_EXAMPLES = """\
examples:
  a file that a run takes as num_speculative_tokens:
    specfair policy results/runs/demo -o policy.json
  a table for a gateway between a server without a drafter and one that drafts 4 tokens:
    specfair policy results/runs/demo --gateway gateway.yaml \\
        --upstream 0=http://plain:8000 --upstream 4=http://drafting:8000
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "policy",
        help="the draft length that serves each group best",
        description=(
            "Choose for each group the number of drafted tokens per step with the largest modelled "
            "speed-up; 0 decodes it plainly. A run takes the file as num_speculative_tokens."
        ),
        epilog=_EXAMPLES,
    )
    add_shared(
        parser,
        "run_dirs",
        help="folder with run.json and records; several, where draft lengths differ, measure "
        "what a step costs by its length, and the policy improves on the first",
    )
    add_shared(parser, "--output", type=file_to_write, metavar="FILE", help="write the policy here")
    add_shared(parser, "--group-by")
    longest = "the longest draft asked about (default: the longest of the runs)"
    parser.add_argument("--longest", type=at_least(1, most=64), metavar="N", help=longest)
    parser.add_argument(
        "--costs",
        type=three_numbers,
        metavar="C,V,O",
        help="what drafting a token, verifying a draft and the rest of a step cost, in plain steps "
        "of the machine that will serve (default: as in the runs)",
    )
    parser.add_argument(
        "--gateway",
        type=_table_to_write,
        metavar="FILE",
        help="write a table of groups, speculation on or off, its length and the server here "
        "(.json, .yaml, .csv)",
    )
    parser.add_argument(
        "--upstream",
        type=_upstream,
        action="append",
        default=[],
        metavar="LENGTH=URL",
        help="a server and the tokens that it drafts per step; once for each. Only their lengths "
        "are chosen among (default: all lengths)",
    )
    add_shared(parser, "--format", choices=["table", "md", "json", "csv"])
    parser.set_defaults(handler=main)


def _table_to_write(text: str) -> Path:
    from lm_eval_specfair.reporting.policy.gateway_table import table_form

    path = file_to_write(text)
    try:
        table_form(path)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def _upstream(text: str) -> "Upstream":
    from lm_eval_specfair.reporting.policy.gateway_table import Upstream

    try:
        return Upstream.read(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.policy.build_policy import build_policy, policy_file
    from lm_eval_specfair.reporting.policy.gateway_table import gateway_table, upstreams_by_length
    from lm_eval_specfair.reporting.policy.policy_text import render_policy

    upstreams = upstreams_by_length(arguments.upstream)
    policy = build_policy(
        arguments.run_dirs,
        group_by=arguments.group_by,
        longest=arguments.longest,
        costs=arguments.costs,
        served=upstreams,
    )
    print(render_policy(policy, arguments.format))
    if arguments.output is not None:
        file = policy_file(policy, arguments.run_dirs).to_json()
        name_files([write_file(arguments.output, file)])
    if arguments.gateway is not None:
        table = gateway_table(policy, arguments.gateway, upstreams)
        name_files([write_file(arguments.gateway, table)])
    return 0
