"""`specfair policy`: what drafts best for each group, and how far, from the records of runs."""

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
  a drafter and a length for each group, which a run takes as drafter:
    specfair policy results/runs/small results/runs/lookup -o policy.json
  a table for a gateway between a server without a drafter and one that drafts 4 tokens:
    specfair policy results/runs/demo --gateway gateway.yaml \\
        --upstream 0=http://plain:8000 --upstream 4=http://drafting:8000
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "policy",
        help="the draft length, or the drafter and length, that serves each group best",
        description=(
            "Choose for each group the number of drafted tokens per step with the largest modelled "
            "speed-up; 0 decodes it plainly. A run takes the file as num_speculative_tokens. From "
            "runs or replays of the same requests by several drafters, choose a drafter and a "
            "length; no group that is named ends below plain decoding, but for a chance of 5% over "
            "all of them. A run takes that file as drafter."
        ),
        epilog=_EXAMPLES,
    )
    add_shared(
        parser,
        "run_dirs",
        help="folder with run.json and records; several, where draft lengths differ, measure "
        "what a step costs by its length, and the policy improves on the first; where drafters "
        "differ, they are chosen among",
    )
    add_shared(parser, "--output", type=file_to_write, metavar="FILE", help="write the policy here")
    add_shared(parser, "--group-by")
    longest = "the longest draft asked about (default: the longest of the runs)"
    parser.add_argument("--longest", type=at_least(1, most=64), metavar="N", help=longest)
    parser.add_argument(
        "--costs",
        type=_costs,
        action="append",
        metavar="[DRAFTER=]C,V,O",
        help="what drafting a token, verifying a draft and the rest of a step cost, in plain steps "
        "of the machine that will serve; with several drafters, once for each (default: as in the "
        "runs)",
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
        metavar="[DRAFTER:]LENGTH=URL",
        help="a server and the tokens that it drafts per step, with which drafter where runs have "
        "several; once for each. Only these are chosen among (default: all)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.05,
        metavar="P",
        help="with several drafters: the chance that any group named ends below plain decoding, "
        "and the level at which drafters are exchanged (default: 0.05)",
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


def _costs(text: str) -> tuple[str | None, tuple[float, float, float]]:
    """A type for the costs of a step, and whose they are."""
    name, equals, numbers = text.rpartition("=")
    if equals and not name:
        raise argparse.ArgumentTypeError(f"expected DRAFTER=C,V,O, got {text!r:.200}")
    return name or None, three_numbers(numbers)


def _costs_by_drafter(
    named: list[tuple[str | None, tuple[float, float, float]]] | None,
) -> tuple[float, float, float] | dict[str, tuple[float, float, float]] | None:
    if not named:
        return None
    if len(named) == 1 and named[0][0] is None:
        return named[0][1]
    by_name = {name: costs for name, costs in named if name is not None}
    if len(by_name) < len(named):
        raise ConfigError(
            "expected --costs once, or once for each drafter as DRAFTER=C,V,O, got several"
        )
    return by_name


def _upstream(text: str) -> "Upstream":
    from lm_eval_specfair.reporting.policy.gateway_table import Upstream

    try:
        return Upstream.read(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.policy.build_policy import build_policy, policy_file
    from lm_eval_specfair.reporting.policy.gateway_table import gateway_table, upstreams_by_route
    from lm_eval_specfair.reporting.policy.policy_text import render_policy

    upstreams = upstreams_by_route(arguments.upstream)
    policy = build_policy(
        arguments.run_dirs,
        group_by=arguments.group_by,
        longest=arguments.longest,
        costs=_costs_by_drafter(arguments.costs),
        served=upstreams,
        level=arguments.level,
    )
    print(render_policy(policy, arguments.format))
    if arguments.output is not None:
        file = policy_file(policy, arguments.run_dirs).to_json()
        name_files([write_file(arguments.output, file)])
    if arguments.gateway is not None:
        table = gateway_table(policy, arguments.gateway, upstreams)
        name_files([write_file(arguments.gateway, table)])
    return 0
