"""`specfair coverage`: the share of texts' tokens that a drafter's vocabulary has."""

import argparse
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, name_files

_EXAMPLES = """\
examples:
  an EAGLE-3 head with a pruned vocabulary (d2t, t2d), on the texts of a run, beside acceptance:
    specfair coverage results/my-run --draft-vocabulary HEAD/model.safetensors
  the same from texts alone, one file for each language:
    specfair coverage texts/ --tokenizer TARGET --draft-vocabulary HEAD/model.safetensors
  a drafter with another tokenizer, as JSON:
    specfair coverage results/my-run --tokenizer TARGET --draft-vocabulary DRAFTER --format json
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "coverage",
        help="the share of texts' tokens that a drafter can propose, by language",
        description="Count which of the target's tokens in texts a drafter's vocabulary has: of a "
        "head with a pruned vocabulary, or of a drafter with another tokenizer. No model is run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a run's folder, samples_*.jsonl of lm-eval, a folder of <group>.txt, or JSON Lines "
        "with text (or prompt and response) and a group",
    )
    parser.add_argument(
        "--draft-vocabulary",
        required=True,
        metavar="NAME",
        help="a head's safetensors file or folder (d2t, t2d), or a drafter: folder or hub id with "
        "a tokenizer",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of the target, where sources hold text and no ids, or a drafter's is compared with "
        "it: folder, hub id or `embedded`",
    )
    add_shared(parser, "--group-by", "--groups", "--group-source")
    add_shared(parser, "--format", choices=["table", "md", "json", "csv"])
    add_shared(parser, "--output", help="also write a report's files here")
    add_shared(
        parser,
        "--min-requests",
        help="groups with fewer texts are listed as not reported (default: %(default)s)",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.replays.draft_coverage import coverage
    from lm_eval_specfair.reporting.report.build_report import render, write_report

    summary = coverage(
        arguments.sources,
        arguments.draft_vocabulary,
        tokenizer=arguments.tokenizer,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
    )
    print(render(summary, arguments.format))
    if arguments.output is not None:
        name_files(write_report(summary, arguments.output))
    return 0
