"""`specfair tasks-path`: the folder of the task YAMLs."""

import argparse

from lm_eval_specfair.cli.shared.parser import Verbs


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "tasks-path",
        help="the folder of the tasks, for lm-eval's --include_path",
        description="Print the folder of the tasks, for use where the hook is switched off.",
        epilog='example: lm_eval ls tasks --include_path "$(specfair tasks-path)"',
    )
    parser.set_defaults(handler=main)


def main(_arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.harness.paths import task_configs_dir

    print(task_configs_dir())
    return 0
