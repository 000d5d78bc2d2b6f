"""`specfair prune`: a drafter's head cut to the tokens that every group needs."""

import argparse
import logging

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least, name_files

_EXAMPLES = """\
examples:
  4,000 tokens, among them at least 98% of every language's text:
    specfair prune embedded results/my-run --draft-vocabulary 4000 --coverage-floor 0.98 -o pruned
    specfair run --tasks specfair_demo --model_args drafter=pruned
  chosen on half of the documents, measured on the other half:
    specfair prune embedded results/my-run --documents even --draft-vocabulary 4000 -o pruned
    specfair replay results/my-run --documents odd --drafter embedded --drafter pruned -o replay
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "prune",
        help="cut a drafter's head to the tokens that every group needs",
        description="Choose the tokens that a drafter drafts: the most frequent ones, with at "
        "least a share of each group's text among them. Scoring fewer tokens makes drafting "
        "cheaper; tokens outside are never drafted, which only costs acceptance. The new folder "
        "is the drafter's, with the list of tokens beside its weights.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("drafter", metavar="DRAFTER", help="its folder, or an embedded one's name")
    add_shared(parser, "sources")
    parser.add_argument(
        "--draft-vocabulary",
        type=at_least(1),
        required=True,
        metavar="N",
        help="number of tokens that are drafted",
    )
    parser.add_argument(
        "--coverage-floor",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each group's tokens that must be among them, such as 0.98 (default: 0, the "
        "most frequent tokens whoever uses them)",
    )
    add_shared(parser, "--group-by", "--documents")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of the target, where sources hold text and no ids: folder, hub id or `embedded` "
        "(default: that of the first run's target, else the drafter's)",
    )
    add_shared(parser, "--output", required=True, help="new folder")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.fitting.prune_run import prune

    done = prune(
        arguments.drafter,
        arguments.sources,
        arguments.output,
        draft_vocabulary=arguments.draft_vocabulary,
        coverage_floor=arguments.coverage_floor,
        group_by=arguments.group_by,
        documents=arguments.documents,
        tokenizer=arguments.tokenizer,
    )
    print(done.table())
    logger = logging.getLogger(__name__)
    for note in done.notes():
        logger.warning("%s", note)
    name_files([done.folder])
    return 0
