"""`specfair policy`: the draft length that serves each group best, from the records of runs."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.console import name_files
from lm_eval_specfair.files import write_file


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "policy",
        help="the draft length that serves each group best",
        description=(
            "Choose for each group the number of drafted tokens per step with the largest modelled "
            "speed-up; 0 decodes it plainly. A run takes the file as num_speculative_tokens."
        ),
        epilog="example: specfair policy results/runs/demo -o policy.json",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="folder with run.json and records; several, where draft lengths differ, measure "
        "what a step costs by its length, and the policy improves on the first",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the policy here")
    parser.add_argument(
        "--group-by",
        default="language",
        metavar="FIELD",
        help="what makes a group, such as language or script (default: %(default)s)",
    )
    parser.add_argument(
        "--longest",
        type=int,
        metavar="N",
        help="the longest draft asked about (default: the longest of the runs)",
    )
    parser.add_argument(
        "--costs",
        type=_three_numbers,
        metavar="C,V,O",
        help="what drafting a token, verifying a draft and the rest of a step cost, in plain steps "
        "of the machine that will serve (default: as in the runs)",
    )
    parser.add_argument(
        "--format",
        default="table",
        choices=["table", "md", "json", "csv"],
        help="what is printed (default: %(default)s)",
    )
    parser.set_defaults(handler=main)


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        draft, verify, overhead = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers such as 0.05,1.1,0.02, got {text!r}"
        ) from None
    return draft, verify, overhead


def main(arguments: argparse.Namespace) -> int:
    """Print what was chosen, write the policy where asked; the exit status."""
    from lm_eval_specfair.reporting.policy.build_policy import build_policy, policy_file
    from lm_eval_specfair.reporting.policy.policy_text import render_policy

    policy = build_policy(
        arguments.run_dirs,
        group_by=arguments.group_by,
        longest=arguments.longest,
        costs=arguments.costs,
    )
    text = render_policy(policy, arguments.format)
    if arguments.output is not None:
        text_of_file = policy_file(policy, arguments.run_dirs).to_json()
        name_files([write_file(arguments.output, text_of_file)])
    print(text)
    return 0
