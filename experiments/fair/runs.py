"""A run of the fair experiment: an arm and a seed, trained, decoded by the harness, and read."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from reading import counts_of_rows, heldout_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.records import read_run

# The older form: all languages in every batch, losses weighed by KL.
_WEIGHED = "s-cdf:apply=loss,signal=kl"

# Weighting and divergence of each arm; `start` is the drafter as it is.
ARMS: dict[str, tuple[str, str] | None] = {
    "start": None,
    "mix": ("mix", "forward-kl"),
    "balanced": ("balanced", "forward-kl"),
    "s-cdf": (_WEIGHED, "forward-kl"),
    "s-cdf-no-floor": ("s-cdf:apply=loss,signal=kl,floor=0", "forward-kl"),
    "s-cdf-literal": ("s-cdf-literal", "forward-kl"),
    "s-cdf-tv": ("s-cdf:apply=loss", "forward-kl"),
    "s-cdf-byte": (f"{_WEIGHED},unit=byte", "forward-kl"),
    "clip": ("clip", "forward-kl"),
    "signed": ("signed", "forward-kl"),
    "variance": ("variance", "forward-kl"),
    "constrained": ("constrained:dominant=en", "forward-kl"),
    "worst-only": ("worst-only", "forward-kl"),
    "cvar": ("cvar:share=0.2,floor=0.4,signal=tv", "forward-kl"),
    "cvar-lk": ("cvar:share=0.2,floor=0.4,signal=tv", "lk"),
    "cvar-no-floor": ("cvar:share=0.3", "forward-kl"),
    "clip-sampled": ("clip:apply=sampling", "forward-kl"),
    "cvar-wide-lk": ("cvar:share=0.4,floor=0.2,signal=tv", "lk"),
    "balanced-lk": ("balanced", "lk"),
    "cvar-narrow-lk": ("cvar:share=0.1,floor=0.4,signal=tv", "lk"),
    "dro-sampled-lk": ("dro:apply=sampling,floor=0.3,signal=tv,rate=0.1", "lk"),
    "s-cdf-sampled-lk": ("s-cdf", "lk"),
    "s-cdf-half-lk": ("s-cdf:floor=0.5", "lk"),
    "s-cdf-half-sampled": ("s-cdf:floor=0.5", "forward-kl"),
    "s-cdf-sampled": ("s-cdf", "forward-kl"),
    "dro": ("dro", "forward-kl"),
    "class-balanced": ("class-balanced", "forward-kl"),
    "focal": ("focal", "forward-kl"),
    "temperature": ("temperature:temperature=2", "forward-kl"),
    "mix-tv": ("mix", "tv"),
    "mix-lk": ("mix", "lk"),
    "s-cdf-reverse-kl": (_WEIGHED, "reverse-kl"),
    "s-cdf-js": (_WEIGHED, "js"),
    "s-cdf-overlap": (_WEIGHED, "neg-log-overlap"),
    "s-cdf-lk": (_WEIGHED, "lk"),
}
GAMMA = 4


def call(work: Path, name: str, *arguments: str) -> bool:
    """Run a verb of specfair on one core, its output in a log; whether it went well."""
    log = work / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # One thread each: two runs side by side are faster than one on two threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "30"}
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "lm_eval_specfair", *arguments]
        print("$", " ".join(command), file=file, flush=True)
        done = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if done.returncode:
        print(f"{name} failed with status {done.returncode}, see {log}", file=sys.stderr)
    return done.returncode == 0


def train(name: str, arm: str, seed: int, args: argparse.Namespace) -> bool:
    objective, out = ARMS[arm], args.work / name / "drafter"
    if objective is None or (out / "train_results.json").exists():
        return True
    weighting, divergence = objective
    options = {
        "data": args.work / "texts.jsonl",
        "out": out,
        "weighting": weighting,
        "divergence": divergence,
        "seed": seed,
        "tokens": args.tokens,
        "rows": args.rows,
        "length": args.length,
        "learning-rate": args.learning_rate,
        "mixed-precision": args.mixed_precision,
        "optimizer": "muon",
        "num-probes": args.probes,
        "probe-rows": args.probe_rows,
        "num-speculative-tokens": GAMMA,
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    resume = ["--resume"] if out.exists() else []
    return call(args.work, f"{name}.train", "train", *flags, *resume)


def is_evaluated(work: Path, name: str) -> bool:
    records = work / name / "records"
    return records.exists() and read_run(records).get("finished") is not None


def drafter_of(name: str, arm: str, work: Path) -> Path | None:
    """A run's drafter; None, with a word, where it is not trained yet."""
    if ARMS[arm] is None:
        return EMBEDDED_DRAFTER
    drafter = work / name / "drafter"
    if not (drafter / "train_results.json").exists():
        print(f"{name} is not trained yet", file=sys.stderr)
        return None
    return drafter


def evaluate(name: str, arm: str, seed: int, args: argparse.Namespace) -> bool:
    drafter = drafter_of(name, arm, args.work)
    if drafter is None:
        return False
    suites = json.loads((args.work / "prepared.json").read_text())["suites"]
    tasks = ("--tasks", ",".join(suites), "--include_path", str(args.work / "tasks"))
    return decode(args.work, name, drafter, seed, args.prompts, *tasks)


def decode(work: Path, name: str, drafter: Path, seed: int, prompts: int, *tasks: str) -> bool:
    """Decode tasks with a drafter, unless that is done; whether it went well."""
    if is_evaluated(work, name):
        return True
    records = work / name / "records"
    model = {
        "pretrained": EMBEDDED_TARGET,
        "drafter": drafter,
        "num_speculative_tokens": GAMMA,
        "baseline": 0,  # timed where other runs compete for the cores, it would tell nothing
        "seed": seed,
        "records_dir": records,
        "resume": str(records.exists()).lower(),
    }
    return call(
        work,
        f"{name}.evaluate",
        *("run", "--model", "specfair", "--device", "cpu", "--batch_size", "16"),
        *("--model_args", ",".join(f"{key}={value}" for key, value in model.items())),
        *("--limit", str(prompts), *tasks),
    )


def rows_to_read(args: argparse.Namespace, languages: Sequence[str]) -> dict[str, torch.Tensor]:
    """Held-out rows of each language, shape (rows, length); the same for all runs."""
    path = args.work / "rows.safetensors"
    if not path.exists():
        if args.corpus is None:
            sys.exit(
                "--corpus is needed to read held-out texts: what embedded_pair/corpus.py wrote"
            )
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
        found = {
            code: heldout_rows(args.corpus, code, tokenizer, args.read_rows) for code in languages
        }
        save_file(found, path)
    return load_file(path)


def read(name: str, arm: str, seed: int, args: argparse.Namespace) -> bool:
    """Let target and drafter read held-out texts; shape (rows, languages, len(COUNTS))."""
    path = args.work / name / "read.npy"
    if path.exists():
        return True
    drafter = drafter_of(name, arm, args.work)
    if drafter is None:
        return False
    languages = json.loads((args.work / "prepared.json").read_text())["languages"]
    rows = rows_to_read(args, languages)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    pair = [
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).eval()
        for each in (EMBEDDED_TARGET, drafter)
    ]
    found = [counts_of_rows(*pair, tokenizer, rows[code], GAMMA) for code in languages]
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.stack(found, axis=1))
    return True
