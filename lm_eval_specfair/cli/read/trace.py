"""`specfair trace`: one request, token by token: what was kept, replaced and thrown away."""

import argparse
import os
import sys

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "trace",
        help="show single requests token by token: kept, replaced, thrown away",
        description=(
            "Print the text of a request with every token marked: drafted and kept, the target's "
            "own, drafted and thrown away, and where steps begin. In colours on a terminal, in "
            "marks elsewhere and where NO_COLOR is set."
        ),
        epilog="example: specfair trace results/runs/demo --worst 3",
    )
    add_shared(parser, "run_dir")
    parser.add_argument(
        "--request",
        metavar="ID",
        help="its request_id, or how that begins (default: the slowest request)",
    )
    parser.add_argument(
        "--worst",
        type=at_least(1),
        default=1,
        metavar="N",
        help="so many requests with the fewest tokens a step (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="folder or hub id, for runs that did not note what their tokens spell (default: the "
        "run's pieces.json, else its target's tokenizer)",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.viewer.traced_requests import traced_requests

    shown = traced_requests(
        arguments.run_dir,
        request=arguments.request,
        worst=arguments.worst,
        tokenizer=arguments.tokenizer,
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n\n".join(trace.render(colour=colour) for trace in shown))
    return 0
