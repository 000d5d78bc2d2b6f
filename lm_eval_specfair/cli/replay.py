"""`specfair replay`: audit drafters on texts that exist, without decoding them again."""

import argparse
import logging
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, at_least, name_files

_EXAMPLES = """\
examples:
  two drafters and two draft lengths on the texts of a run, in one reading:
    specfair replay results/my-run --drafter SMALL --drafter prompt_lookup \\
        --num-speculative-tokens 2 4 -o replays
  with overlap and KL, and a check that the texts are the target's own:
    specfair replay results/my-run --drafter SMALL --target BIG -o replay
  samples that lm-eval wrote for any model (--log_samples), or JSON Lines with prompt and response:
    specfair replay out/samples_mgsm_de_*.jsonl --drafter SMALL --tokenizer BIG -o replay
  then, as for a run that was decoded:
    specfair report replay
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "replay",
        help="audit drafters on texts that exist, in one pass over each",
        description="Take the speculative steps of finished texts again with other drafters: one "
        "pass of each drafter over each text says which tokens it would have proposed, kept and "
        "lost. Greedy texts need no target; sampled ones do.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="a run's folder, samples_*.jsonl of lm-eval, or JSON Lines with prompt and response",
    )
    parser.add_argument(
        "--drafter",
        action="append",
        required=True,
        metavar="NAME",
        help="folder, hub id, embedded, embedded-fair or prompt_lookup; may be given several times",
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="folder, hub id or `embedded`: adds overlap, KL and entropy, checks that greedy texts "
        "are its own, and is needed for sampled texts",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of the target, where sources hold text and no ids (default: the target's, else the "
        "first drafter's)",
    )
    parser.add_argument(
        "--num-speculative-tokens",
        type=at_least(1),
        nargs="+",
        default=[4],
        metavar="N",
        help="tokens drafted per step, one or several numbers (default: 4)",
    )
    temperature = "of sampled texts whose source does not say (default: greedy)"
    parser.add_argument("--temperature", type=at_least(0, float), metavar="T", help=temperature)
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="for sampled texts (default: 0)"
    )
    device = "cpu, cuda, cuda:1, ... (default: a GPU where there is one)"
    parser.add_argument("--device", help=device)
    parser.add_argument(
        "--dtype",
        default="auto",
        help="of the weights: auto (as stored; float32 on a CPU), bfloat16, ... (default: auto)",
    )
    add_shared(
        parser,
        "--output",
        required=True,
        help="new folder: a run's, or with several drafters or lengths one for each in it",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    import torch

    from lm_eval_specfair.replays.replay_run import replay

    done = replay(
        arguments.sources,
        arguments.drafter,
        arguments.output,
        target=arguments.target,
        tokenizer=arguments.tokenizer,
        lengths=arguments.num_speculative_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=arguments.dtype,
    )
    logger = logging.getLogger(__name__)
    for note in done.notes():
        logger.warning("%s", note)
    name_files(done.folders)
    return 0
