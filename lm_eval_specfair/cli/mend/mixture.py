"""`specfair mixture`: shares of training data by group, from what runs measured."""

import argparse
from pathlib import Path
from typing import get_args

from lm_eval_specfair.cli.shared.outputs import file_to_write, folder_to_write
from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least, name_files
from lm_eval_specfair.training.options import WeightingName

_EXAMPLES = """\
examples:
  shares of data by language, from an audit of the drafter:
    specfair mixture results/runs/round1 -o mixture.json
  and the training data, drawn by them, for speculators, SpecForge or TRL:
    specfair mixture results/runs/round1 -o mixture.json \\
        --data conversations.jsonl --data-out round2/
  another round, after training on it and measuring again:
    specfair mixture results/runs/round2 --mixture mixture.json -o mixture2.json \\
        --data conversations.jsonl --data-out round3/
  steps of GroupDRO instead, from the data's own shares:
    specfair mixture results/runs/round1 --weighting dro:rate=4 --data conversations.jsonl
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "mixture",
        help="shares of training data by group, and weighted data sets, for any trainer",
        description=(
            "Turn what runs or replays measured of a drafter into shares of training data by "
            "group, by any rule of `specfair train`, and draw data sets by them for trainers of "
            "heads and drafters. With the former mixture, in rounds: train, measure, weigh again. "
            "No model is loaded."
        ),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shared(parser, "run_dirs", help="folder of a run or a replay; several are counted together")
    add_shared(
        parser, "--output", type=file_to_write, metavar="FILE", help="write the mixture here"
    )
    parser.add_argument(
        "--weighting",
        default="s-cdf",
        metavar="RULE",
        help=f"NAME or NAME:key=value,... with NAME one of {', '.join(get_args(WeightingName))}; "
        "keys as of `specfair train`; smoothing is from round to round (default: %(default)s)",
    )
    parser.add_argument(
        "--mixture",
        type=Path,
        metavar="FILE",
        help="the mixture that the measured drafter was trained on; by hand, "
        '{"schema_version": 1, "group_by": "language", "shares": {...}} is enough',
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="training data: JSON Lines with `conversations`, `messages`, `prompt` and `response` "
        "(or `completion`), or `text`, and a group; or a folder of <group>.txt",
    )
    parser.add_argument(
        "--data-out",
        type=folder_to_write,
        metavar="DIR",
        help="write the data, drawn by the shares, into this new folder",
    )
    parser.add_argument(
        "--data-size",
        type=at_least(1),
        metavar="N",
        help="tokens to draw, or rows where data have no responses (default: the data's own)",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of what is drawn (default: 0)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="count the data's tokens with it: folder or hub id (default: estimated by the bytes "
        "per token that were measured)",
    )
    add_shared(parser, "--group-by", "--groups", "--group-source")
    add_shared(
        parser,
        "--min-requests",
        help="groups with fewer are not weighed (default: %(default)s)",
    )
    add_shared(parser, "--format", choices=["table", "md", "json", "csv"])
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.mixtures.make_mixture import make_mixture
    from lm_eval_specfair.mixtures.mixture_text import render_mixture

    output: Path | None = arguments.output
    made = make_mixture(
        arguments.run_dirs,
        weighting=arguments.weighting,
        former=arguments.mixture,
        data=arguments.data,
        data_out=arguments.data_out,
        data_size=arguments.data_size,
        seed=arguments.seed,
        tokenizer=arguments.tokenizer,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
        output=output,
    )
    print(
        render_mixture(
            made.mixture,
            arguments.format,
            draw=made.draw,
            output=output,
            data_files=made.data_files,
        )
    )
    name_files(made.write())
    return 0
