"""`specfair train`: fine-tune a drafter against a frozen target, with a say in who gains."""

import argparse
from pathlib import Path
from typing import Literal, get_args, get_origin

import msgspec

from lm_eval_specfair.cli.shared.outputs import folder_to_write
from lm_eval_specfair.cli.shared.parser import Verbs, at_least, existing, name_files
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.options import Quantization, TrainConfig, WeightingName, types_of

_EXAMPLES = """\
examples:
  a folder of <group>.txt, the embedded pair:
    specfair train --data texts/ -o fair-drafter --weighting s-cdf --tokens 500000
  any pair with one tokenizer, prompts of tasks, answered by the target:
    specfair train --target BIG --drafter SMALL --data task:xnli_de,xnli_sw -o fair-drafter
  weights per byte, a floor of 0.1, the LK hybrid; resume after a kill:
    specfair train --data texts.jsonl -o fair-drafter --divergence lk \\
        --weighting s-cdf:unit=byte,floor=0.1 --resume
  a large target in 8 bits, adapters only, metrics to TensorBoard (their packages are extra):
    specfair train --target BIG --drafter SMALL --data texts.jsonl -o fair-drafter \\
        --quantize-target int8 --lora-rank 16 --mixed-precision bf16 --tracker tensorboard
  a target that does not fit: spread over devices, recorded once, not loaded by later runs:
    specfair train --target BIG --drafter SMALL --data texts.jsonl -o first \\
        --target-device-map auto --teacher-cache recorded/
    specfair train --target BIG --drafter SMALL --data texts.jsonl -o second \\
        --teacher-cache recorded/ --weighting balanced
  an EAGLE-3 head that drafts among 4,000 tokens, with 98% of every language's text among them:
    specfair train --kind eagle3 --data texts.jsonl -o head --draft-vocabulary 4000 \\
        --coverage-floor 0.98 --learning-rate 1e-3
  a drafter for about every 8 languages that are served alike, and a policy that routes to them:
    specfair train --data texts.jsonl -o drafters --groups-per-drafter 8 \\
        --served-alike REPLAY_1 REPLAY_2
    specfair run --tasks specfair_demo --model_args drafter=drafters/policy.json
  two processes, each with the pair:
    accelerate launch --num_processes 2 -m lm_eval_specfair train --data texts/ -o fair-drafter
"""
_DATA_HELP = """\
a folder of <group>.txt; a JSON Lines file with `text`, or `prompt` and perhaps `response` (or
`completion`), with `group` (a name, a list, or shares by name) and perhaps `item` (what
translations share); task:NAME,... for the prompts of lm-eval tasks' training documents;
datasets:ID[:CONFIG][:SPLIT]
"""
_WEIGHTING_HELP = f"""\
NAME or NAME:key=value,... with NAME one of {", ".join(get_args(WeightingName))}; keys are signal
(kl, cross-entropy, tv), unit (token, byte), smoothing, floor, apply (loss, sampling) and the rule's
own
"""

# By group of options: flag, metavar (None where choices are shown), help. The flag names a field of
# TrainConfig, which has its type, default and choices.
_SETTINGS: dict[str, tuple[tuple[str, str | None, str], ...]] = {
    "objective": (
        ("weighting", "RULE", _WEIGHTING_HELP),
        ("divergence", None, "what the gradient descends on"),
        ("tolerance", "SHARE", "share of its start that the mean speed-up may lose"),
    ),
    "budget and batches": (
        ("tokens", "N", "budget: rows times length of all batches"),
        ("rows", "N", "rows of a batch, over all processes"),
        ("micro-rows", "N", "rows that a process holds at once"),
        ("length", "N", "tokens of a row at most"),
        ("seed", "N", "of splits, order and responses"),
    ),
    "optimization": (
        ("learning-rate", "RATE", "peak learning rate; 1e-3 suits small models, 2e-5 large ones"),
        ("optimizer", None, "muon is for the hidden matrices, with AdamW for the rest"),
        ("mixed-precision", None, "bf16 is for matrix products only"),
        ("gradient-checkpointing", None, "recompute hidden states instead of keeping them"),
    ),
    "responses": (
        (
            "responses",
            None,
            "where responses come from: given (by the target where they are missing), target "
            "(all written by it), drafter (on-policy, anew at each probe)",
        ),
        ("temperatures", "T,T,...", "of written responses, used in rotation"),
        ("max-response-tokens", "N", "tokens of a written response at most"),
    ),
    "probes": (
        (
            "num-probes",
            "N",
            "times that the probe split is measured. The checkpoint kept has the fastest "
            "worst group on this held-out split, among those whose mean did not drop",
        ),
        ("probe-rows", "N", "rows of each group that a split is measured on at most"),
        ("num-speculative-tokens", "N", "tokens drafted per step in the textbook speed-up"),
        (
            "cost-ratio",
            "C",
            "a draft pass over a target pass in the textbook speed-up (default: that of the "
            "parameters)",
        ),
    ),
}


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "train",
        help="fine-tune a drafter so that groups share the speed-up as a weighting asks",
        description="Fine-tune a drafter against a frozen target. The result is an ordinary "
        "Hugging Face folder with a model card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help=_DATA_HELP)
    flags, place = ("--out", "-o", "--output"), "a new folder"
    add(*flags, required=True, type=folder_to_write, metavar="DIR", help=place)
    add("--resume", action="store_true", help="resume the run in the folder")
    add(
        "--tracker",
        metavar="NAME",
        help="one of accelerate's: tensorboard, wandb, mlflow, ... (default: none; "
        "training_log.jsonl is always written)",
    )
    _add_models(parser.add_argument_group("models"))
    _add_heads(parser.add_argument_group("heads"))
    _add_clusters(parser.add_argument_group("several drafters"))
    _add_settings(parser)
    parser.set_defaults(handler=main)


def _add_models(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--target", metavar="NAME", help="folder or hub id (default: embedded)")
    drafter = "folder or hub id; required unless the target is the embedded one (default: embedded)"
    add("--drafter", metavar="NAME", help=drafter)
    rank = "learn adapters of this rank only, by peft (default: all weights learn)"
    add("--lora-rank", type=at_least(1), metavar="R", help=rank)
    add(
        "--quantize-target",
        choices=get_args(Quantization),
        help="as it is loaded: 8bit and 4bit by bitsandbytes, int8 and int4 by torchao "
        "(default: as stored)",
    )
    add("--quantise-target", dest="quantize_target", help=argparse.SUPPRESS)
    add(
        "--target-device-map",
        metavar="MAP",
        help="where the target's layers go: auto, a device, or a JSON object from module to "
        "device, also disk (default: the device that trains)",
    )
    add(
        "--teacher-cache",
        type=folder_to_write,
        metavar="DIR",
        help="record the target's most likely tokens at all rows here, or learn from what is "
        "recorded, without loading the target (default: the target runs)",
    )
    add(
        "--cache-top-k",
        type=at_least(1),
        metavar="K",
        help="keep the target's K most likely tokens instead of running it at each step "
        "(default: the target runs; 64 with --teacher-cache)",
    )


def _add_heads(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--kind",
        choices=get_args(types_of(TrainConfig)["kind"]),
        help="model fine-tunes a drafting model; eagle3 makes a head that reads the target's "
        "hidden states, in the form of vLLM's speculators (default: model)",
    )
    add(
        "--draft-vocabulary",
        type=at_least(1),
        metavar="N",
        help="the most frequent tokens that the head drafts among (default: the target's all)",
    )
    add(
        "--coverage-floor",
        type=at_least(0, float, most=1),
        metavar="SHARE",
        help="the share of each group's text that these must have, whatever is frequent (default: "
        "none)",
    )
    add(
        "--cache-features",
        action="store_true",
        help="keep the target's hidden states at all rows on disk while it learns, for a corpus "
        "that is read several times (default: the target runs)",
    )
    steps = "tokens that a head drafts from each place while it learns (default: 4)"
    add("--unrolled-steps", type=at_least(1, most=16), metavar="N", help=steps)


def _add_clusters(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--groups-per-drafter",
        type=_number_or_file,
        metavar="N|FILE",
        help="train a drafter for about every N groups that are served alike, or for each cluster "
        "of a JSON file, all from the same start, with the budget shared out by groups; the folder "
        "gets a folder for each and policy.json, which a run takes as drafter (default: one "
        "drafter for all)",
    )
    add(
        "--served-alike",
        nargs="+",
        type=existing,
        metavar="RUN_DIR",
        help="runs or replays of the same requests with different drafters: groups whose drafts "
        "they accept alike share a drafter (default: none; a file of clusters needs none)",
    )
    add(
        "--group-by",
        metavar="FIELD",
        help="what makes a group in these runs, and in the policy (default: language)",
    )


def _number_or_file(text: str) -> int | Path:
    return existing(text) if not text.isdecimal() else int(at_least(1)(text))


def _add_settings(parser: argparse.ArgumentParser) -> None:
    types, defaults = types_of(TrainConfig), TrainConfig()
    for title, settings in _SETTINGS.items():
        group = parser.add_argument_group(title)
        for flag, metavar, text in settings:
            name = flag.replace("-", "_")
            kind, default = types[name], getattr(defaults, name)
            if isinstance(default, tuple):
                default = ",".join(f"{part:g}" for part in default)
            shown = text if default is None else f"{text.rstrip()} (default: {default})"
            if kind is bool:
                group.add_argument(f"--{flag}", action="store_true", help=f"{text} (default: off)")
            elif get_origin(kind) is Literal:
                group.add_argument(f"--{flag}", choices=get_args(kind), help=shown)
            else:
                number = float if default is None else type(default)
                group.add_argument(f"--{flag}", type=number, metavar=metavar, help=shown)


def main(arguments: argparse.Namespace) -> int:
    given = {k: value for k, value in vars(arguments).items() if k not in ("verb", "handler")}
    if "temperatures" in given:
        given["temperatures"] = _temperatures(given["temperatures"])
    names = TrainConfig.__struct_fields__
    config = TrainConfig(**{name: value for name, value in given.items() if name in names})

    from lm_eval_specfair.harness.paths import task_configs_dir
    from lm_eval_specfair.training.artifacts.card import table_of
    from lm_eval_specfair.training.job import train

    others = {name: value for name, value in given.items() if name not in names}
    others["task_folders"] = [str(task_configs_dir())]
    if "groups_per_drafter" in given:
        from lm_eval_specfair.fitting.cluster_training import train_clusters

        trained = train_clusters(config=config, **others)
        print(table_of(dict(trained.results), "simple"))
        name_files([*trained.folders.values(), trained.policy])
        return 0
    if unused := [name for name in ("served_alike", "group_by") if name in given]:
        raise ConfigError(
            f"--{unused[0].replace('_', '-')} is of several drafters: pass --groups-per-drafter too"
        )
    results = train(config=config, **others)
    print(table_of(msgspec.json.decode(results.read_bytes()), "simple"))
    name_files([arguments.out, results])
    return 0


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--temperatures must be numbers with commas between, as in 0,0.7,1, got {text!r}"
        ) from None
