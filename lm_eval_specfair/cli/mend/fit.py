"""`specfair fit`: drafters that are fitted on the target's texts in seconds."""

import argparse
import logging

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least, name_files

_EXAMPLES = """\
examples:
  n-grams of the texts of a run, one drafter for each language and one for all:
    specfair fit results/my-run --group-by language -o fitted
    specfair run --tasks specfair_demo --model_args drafter=fitted/policy.json
  fitted on half of the documents, measured on the other half:
    specfair fit results/my-run --documents even -o fitted
    specfair replay results/my-run --documents odd --drafter fitted -o replay
  a store of answers to look up, which goes before a small model where 3 tokens match:
    specfair fit results/my-run --kind lookup -o answers
    specfair run --tasks specfair_demo --model_args drafter=answers:3+embedded
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "fit",
        help="fit drafters on the target's texts in seconds: n-grams, or a store to look up",
        description="Fit a drafter without weights to train: n-grams with Kneser-Ney smoothing, "
        "or a store of texts whose longest match is followed. A run takes the folder as drafter, "
        "or the policy in it, which gives each group its own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shared(parser, "sources")
    parser.add_argument(
        "--kind",
        choices=["ngram", "lookup"],
        default="ngram",
        help="n-grams, or a store of texts to look up (default: ngram)",
    )
    parser.add_argument(
        "--order",
        type=at_least(1, most=12),
        default=4,
        metavar="N",
        help="tokens of the longest n-grams (default: 4)",
    )
    add_shared(
        parser,
        "--group-by",
        default=None,
        help="one drafter for each group by this field, such as language, and one for all "
        "(default: one for all)",
    )
    add_shared(parser, "--documents")
    parser.add_argument(
        "--learn",
        choices=["answers", "texts"],
        default="answers",
        help="answers, or texts with their prompts (default: answers)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of the target, where sources hold text and no ids: folder, hub id or `embedded` "
        "(default: that of the first run's target)",
    )
    parser.add_argument(
        "--num-speculative-tokens",
        type=at_least(1, most=256),
        default=4,
        metavar="N",
        help="tokens drafted per step in the policy (default: 4)",
    )
    add_shared(
        parser,
        "--output",
        required=True,
        help="new folder: the drafter's, or with --group-by that of all of them and policy.json",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.fitting.fit_notes import fit_notes, fit_table
    from lm_eval_specfair.fitting.fit_run import fit

    done = fit(
        arguments.sources,
        arguments.output,
        kind=arguments.kind,
        order=arguments.order,
        group_by=arguments.group_by,
        documents=arguments.documents,
        learn=arguments.learn,
        tokenizer=arguments.tokenizer,
        num_speculative_tokens=arguments.num_speculative_tokens,
    )
    print(fit_table(done))
    logger = logging.getLogger(__name__)
    for note in fit_notes(done):
        logger.warning("%s", note)
    written = [each.folder for each in done.drafters]
    name_files(written if done.policy is None else [done.policy])
    return 0
