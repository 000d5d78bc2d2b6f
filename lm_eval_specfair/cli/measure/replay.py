"""`specfair replay`: audit drafters on texts that exist, without decoding them again."""

import argparse
import logging
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import (
    Verbs,
    add_shared,
    at_least,
    name_files,
    three_numbers,
)
from lm_eval_specfair.errors import ConfigError

_EXAMPLES = """\
examples:
  two drafters and two draft lengths on the texts of a run, in one reading:
    specfair replay results/my-run --drafter SMALL --drafter prompt_lookup \\
        --num-speculative-tokens 2 4 -o replays
  with overlap and KL, and a check that the texts are the target's own:
    specfair replay results/my-run --drafter SMALL --target BIG -o replay
  the same for drafters to come, without the target once its pass is in a folder:
    specfair replay results/my-run --drafter SMALL --target BIG --target-cache pass -o replay
    specfair replay results/my-run --drafter OTHER --target-cache pass -o other
  samples that lm-eval wrote for any model (--log_samples), or JSON Lines with prompt and response:
    specfair replay out/samples_mgsm_de_*.jsonl --drafter SMALL --tokenizer BIG -o replay
  on people's texts in JSON Lines, which cannot loop, instead of the target's own:
    specfair replay references.jsonl --references --drafter SMALL --target BIG -o replay
  a policy, each text with the drafter and draft length that its group gets:
    specfair replay results/my-run --drafter policy.json -o replay
  with a speed-up, modelled at the costs that the run measured:
    specfair replay results/my-run --drafter SMALL --costs-from results/my-run -o replay
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
        help="folder or hub id of a model or head, embedded, embedded-fair, prompt_lookup, "
        "suffix_lookup, LOOKUP+NAME, or what `specfair fit` wrote; NAME@bfloat16, NAME@int8 and "
        "the like convert or quantize a model's weights; may be given several times; or a "
        "policy.json by itself, each text with the drafter of its group",
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="folder, hub id or `embedded`: adds overlap, KL and entropy, checks that greedy texts "
        "are its own, and is needed for sampled texts",
    )
    parser.add_argument(
        "--target-cache",
        type=Path,
        metavar="DIR",
        help="keep the target's pass in this folder: a later replay of these texts, with whatever "
        "drafters, reads it instead of the target, which need not be named again",
    )
    parser.add_argument(
        "--references",
        action="store_true",
        help="the responses are people's, not the target's: both models read them and are compared "
        "at each token (scored_overlap, scored_agreement, bits per byte), which no loop can "
        "flatter; needs --target",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="of the target, where sources hold text and no ids (default: the target's, else the "
        "first drafter's)",
    )
    parser.add_argument(
        "--num-speculative-tokens",
        type=at_least(1, most=256),
        nargs="+",
        default=[4],
        metavar="N",
        help="tokens drafted per step, one or several numbers (default: 4)",
    )
    add_shared(
        parser,
        "--documents",
        help="all, even, odd, or K/N: documents whose number leaves K when divided by N, such as "
        "those that no drafter was fitted on (default: all)",
    )
    temperature = "of sampled texts whose source does not say (default: greedy)"
    parser.add_argument("--temperature", type=at_least(0, float), metavar="T", help=temperature)
    parser.add_argument(
        "--drafter-temperature",
        type=at_least(0, float),
        metavar="T",
        help="the drafters' own along sampled texts; 0: their most likely tokens (default: the "
        "texts')",
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="for sampled texts (default: 0)"
    )
    costs = parser.add_mutually_exclusive_group()
    costs.add_argument(
        "--costs",
        type=three_numbers,
        metavar="C,V,O",
        help="what drafting a token, verifying a draft and the rest of a step cost, in plain steps "
        "of the machine that will serve: fills the modelled speed-up",
    )
    costs.add_argument(
        "--costs-from", type=Path, metavar="RUN_DIR", help="take them from a run that was decoded"
    )
    costs.add_argument(
        "--measure-costs",
        action="store_true",
        help="measure them here, by decoding for a few seconds with both models (needs --target)",
    )
    add_shared(
        parser,
        "--group-by",
        default=None,
        help="print the report of each folder by this field, such as language or script",
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
        help="new folder: a run's, or with several drafters or lengths one for each in it; the "
        "same command goes on in it where it was killed",
    )
    parser.set_defaults(handler=main)


def _refuse_unknown(device: str | None, dtype: str) -> None:
    """Raise ConfigError for a device or a type that torch does not have, before texts are read."""
    import torch

    known = getattr(torch, dtype, None)
    if dtype != "auto" and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise ConfigError(
            f"--dtype must be auto, float32, bfloat16, float16 or float64, got {dtype!r:.60}"
        )
    try:
        torch.empty(0, device=device)
    # As torch says of devices that it does not know, was not built for, or does not find.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"--device {device!r:.60} cannot be used here ({reason:.200}): expected cpu, or a "
            "device of this machine"
        ) from None


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.replays.routed_replay import replay

    _refuse_unknown(arguments.device, arguments.dtype)
    done = replay(
        arguments.sources,
        arguments.drafter,
        arguments.output,
        target=arguments.target,
        target_cache=arguments.target_cache,
        tokenizer=arguments.tokenizer,
        documents=arguments.documents,
        lengths=arguments.num_speculative_tokens,
        temperature=arguments.temperature,
        drafter_temperature=arguments.drafter_temperature,
        seed=arguments.seed,
        device=arguments.device,
        dtype=arguments.dtype,
        costs=arguments.costs or arguments.costs_from,
        measure_costs=arguments.measure_costs,
        references=arguments.references,
    )
    logger = logging.getLogger(__name__)
    for note in done.notes():
        logger.warning("%s", note)
    name_files(done.folders)
    if arguments.group_by is not None:
        from lm_eval_specfair.reporting.report.build_report import build_summary, render

        for folder in done.folders:
            summary = build_summary([folder], group_by=arguments.group_by)
            print(render(summary, "table"))
    return 0
