"""`specfair train`: fine-tune a drafter against a frozen target, with a say in who gains."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from lm_eval_specfair.cli.output import name_files
from lm_eval_specfair.errors import ConfigError

_DATA_HELP = """\
a folder of <group>.txt; a JSON Lines file with `text` or `prompt` (and perhaps `response`), `group`
(a name, a list, or shares by name) and perhaps `item` (what translations share); task:NAME,... for
the prompts of lm-eval tasks' training documents; datasets:ID[:CONFIG][:SPLIT]
"""
_EXAMPLES = """\
examples:
  a folder of <group>.txt, the embedded pair:
    specfair train --data texts/ --out fair-drafter --weighting s-cdf --tokens 500000
  any pair with one tokenizer, prompts of tasks, answered by the target:
    specfair train --target BIG --drafter SMALL --data task:xnli_de,xnli_sw --out fair-drafter
  weights per byte, a floor of 0.1, the LK hybrid; go on after a kill:
    specfair train --data texts.jsonl --out fair-drafter --divergence lk \\
        --weighting s-cdf:unit=byte,floor=0.1 --resume
  a large target in 8 bits, adapters only, figures to TensorBoard (their packages are extra):
    specfair train --target BIG --drafter SMALL --data texts.jsonl --out fair-drafter \\
        --quantise-target int8 --lora-rank 16 --mixed-precision bf16 --tracker tensorboard
  two processes, and with the drafter sharded over four GPUs:
    accelerate launch --num_processes 2 -m lm_eval_specfair train --data texts/ --out fair-drafter
    accelerate launch --num_processes 4 --use_fsdp --fsdp_version 2 \\
        --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
        -m lm_eval_specfair train --data texts/ --out fair-drafter
"""
_WEIGHTING_HELP = """\
NAME or NAME:key=value,... with NAME one of s-cdf, s-cdf-literal, clip, signed, balanced, mix,
worst-only, cvar, dro, class-balanced, focal, temperature, variance, constrained; keys are signal
(kl, cross-entropy, tv), unit (token, byte), smoothing, floor, apply (loss, sampling) and the rule's
own (default: %(default)s)
"""

# Flag, field of TrainConfig, type, help. Defaults are TrainConfig's own.
_SETTINGS: tuple[tuple[str, type, str], ...] = (
    ("divergence", str, "forward-kl, reverse-kl, js, tv, neg-log-overlap or lk"),
    ("tokens", int, "budget: rows times length of all batches"),
    ("seed", int, "of splits, order and responses"),
    ("rows", int, "rows of a batch, over all processes"),
    ("micro-rows", int, "rows that a process holds at once"),
    ("length", int, "tokens of a row at most"),
    ("learning-rate", float, "at its height; small models bear 1e-3, large ones 2e-5"),
    ("optimizer", str, "adamw, or muon for the hidden matrices"),
    ("mixed-precision", str, "no or bf16"),
    ("num-probes", int, "times that the probe split is measured"),
    ("probe-rows", int, "rows of each group that a split is measured on at most"),
    ("tolerance", float, "share of its start that the mean speed-up may lose"),
    ("num-speculative-tokens", int, "tokens drafted a step in the modelled speed-up"),
    ("cost-ratio", float, "a draft pass over a target pass (default: that of the parameters)"),
    ("responses", str, "given, target (written by it), or drafter (on-policy)"),
    ("max-response-tokens", int, "tokens of a written response at most"),
    ("cache-top-k", int, "keep the target's k likeliest tokens instead of running it each step"),
)


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "train",
        help="fine-tune a drafter so that groups share the speed-up as a weighting asks",
        description="Fine-tune a drafter against a frozen target. The result is an ordinary "
        "Hugging Face folder with a model card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--target", default=None, help="folder or hub id (default: embedded)")
    parser.add_argument(
        "--drafter", default=None, help="folder or hub id (default: embedded, with its target)"
    )
    parser.add_argument("--data", required=True, metavar="PATH", help=_DATA_HELP)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--weighting", default="s-cdf", help=_WEIGHTING_HELP)
    parser.add_argument(
        "--resume", action="store_true", default=False, help="go on with the run in --out"
    )
    for flag, kind, text in _SETTINGS:
        parser.add_argument(f"--{flag}", type=kind, metavar=flag.upper(), help=text)
    parser.add_argument(
        "--temperatures", help="of written responses, in turns, as in 0,0.3,0.7,1 (the default)"
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="recompute hidden states, save memory"
    )
    parser.add_argument(
        "--lora-rank", type=int, default=None, metavar="R", help="learn adapters only (needs peft)"
    )
    parser.add_argument(
        "--quantise-target",
        default=None,
        metavar="KIND",
        help="8bit or 4bit (bitsandbytes, a GPU), int8 or int4 (torchao, also a CPU)",
    )
    parser.add_argument("--tracker", default=None, help="tensorboard, wandb, ... of accelerate's")
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Train; print before and after; the exit status."""
    import json

    from lm_eval_specfair.training.card import table_of
    from lm_eval_specfair.training.options import TrainConfig
    from lm_eval_specfair.training.weighting import parse

    given = vars(arguments)
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = {name: value for name, value in given.items() if name in names}
    if "temperatures" in settings:
        settings["temperatures"] = _temperatures(settings["temperatures"])
    config = TrainConfig(**settings)
    parse(config.weighting)  # a misspelt name should not wait for the models

    results = _train(arguments, config)
    print(table_of(json.loads(results.read_text(encoding="utf-8")), "simple"))
    name_files([arguments.out, results])
    return 0


def _train(arguments: argparse.Namespace, config: Any) -> Path:
    import torch
    from transformers import AutoTokenizer

    from lm_eval_specfair.decoding import loading
    from lm_eval_specfair.harness.paths import task_configs_dir
    from lm_eval_specfair.training.adapters import add_lora, quantisation_arguments
    from lm_eval_specfair.training.data.text_sources import read_source
    from lm_eval_specfair.training.job import Job
    from lm_eval_specfair.training.run import train_drafter

    target_name = arguments.target or str(loading.EMBEDDED_TARGET)
    drafter_name = arguments.drafter
    if drafter_name is None:
        if target_name != str(loading.EMBEDDED_TARGET):
            raise ConfigError(
                "--drafter is required with this target: pass the path or hub id of a small model "
                "with the target's tokenizer"
            )
        drafter_name = "embedded"
    drafter_name = str(loading.EMBEDDED_DRAFTERS.get(drafter_name, drafter_name))
    quantised = quantisation_arguments(arguments.quantise_target)
    items = read_source(arguments.data, task_folders=[str(task_configs_dir())])
    try:
        tokenizer = AutoTokenizer.from_pretrained(target_name)
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("target", target_name, error) from error
    loading.check_same_tokenizer(tokenizer, drafter_name)
    target = loading.load_model(target_name, "target", dtype="auto", **quantised)
    # Weights that learn need more digits than those that are only read.
    drafter = loading.load_model(drafter_name, "drafter", dtype=torch.float32)
    described = {
        "target": loading.shown_name(target_name),
        "target_weights": loading.weights_digest(target_name, target),
        "drafter": loading.shown_name(drafter_name),
        "drafter_weights": loading.weights_digest(drafter_name, drafter),
        "data": arguments.data,
        "lora_rank": arguments.lora_rank,
        "quantise_target": arguments.quantise_target,
    }
    if arguments.lora_rank is not None:
        add_lora(drafter, arguments.lora_rank)
    results = train_drafter(
        Job(
            target=target,
            drafter=drafter,
            tokenizer=tokenizer,
            items=items,
            config=config,
            folder=arguments.out,
            described=described,
            tracker=arguments.tracker,
        ),
        resume=arguments.resume,
    )
    assert results is not None
    return results


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--temperatures must be numbers with commas between, as in 0,0.7,1, got {text!r}"
        ) from None
