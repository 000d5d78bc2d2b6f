"""Tokens a second of our engine beside vLLM's on a CPU, 8 rows together, in paired processes.

    make vllm-env
    python benchmarks/vllm_speed.py -o results/benchmarks/vllm_speed.md
    python benchmarks/vllm_speed.py --model-pair random --pairs 2 --limit 1
    python benchmarks/vllm_speed.py --folders models/smollm2 tuned --dtype bfloat16 --limit 1

Each measurement is one `lm_eval --model specfair` over the demo suite in its own process, greedy;
the two backends take turns. Tokens are counted from the records, and
seconds are those of reading prompts and decoding: loading and start-up are left out on both sides.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import (
    ROOT,
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)
from pairs import Pair, own_pair, pair
from tqdm import tqdm

from lm_eval_specfair.records import read_records

ARMS = {
    "ours, drafts": ("hf", ""),
    "vLLM, drafts": ("vllm", ""),
    "ours, plain": ("hf", "drafter=none,"),
    "vLLM, plain": ("vllm", "drafter=none,"),
}
PACKAGES = ("torch", "transformers")
AIMS = {"embedded": "1.5", "small": "1.5", "random": "1.0", "own": "1.2"}


def run(of: Pair, backend: str, extra: str, options: argparse.Namespace) -> float:
    """Tokens a second of one evaluation."""
    limit, threads = options.limit, options.threads
    venv = ".venv-vllm" if backend == "vllm" else ".venv"
    with tempfile.TemporaryDirectory() as folder:
        drafter = extra or f"drafter={of.drafter},"
        told = f"{drafter}pretrained={of.target},backend={backend},baseline=0"
        told += f",records_dir={folder}/run,dtype={options.dtype}"
        told += f",num_speculative_tokens={options.num_speculative_tokens}"
        if backend == "vllm":
            told += ",enforce_eager=True"
        command = [
            *(str(ROOT / venv / "bin" / "lm_eval"), "--model", "specfair", "--device", "cpu"),
            *("--tasks", "specfair_demo", "--limit", str(limit), "--batch_size", "8"),
            *("--model_args", told),
        ]
        settings = {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        done = subprocess.run(
            command,
            env=os.environ | settings,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        records = [
            each
            for each in read_records(Path(folder) / "run")
            if each.request_type == "generate_until"
        ]
    seconds = sum(each.decode_seconds + (each.prefill_seconds or 0) for each in records)
    return sum(each.num_generated_tokens for each in records) / seconds


def vllm_version() -> str:
    """Of the environment that vLLM lives in."""
    ask = "from importlib.metadata import version; print(version('vllm-cpu'))"
    command = [str(ROOT / ".venv-vllm" / "bin" / "python"), "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of unknown version"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--model-pair", choices=list(AIMS)[:-1], default="embedded")
    parser.add_argument(
        "--folders", nargs=2, type=Path, metavar=("TARGET", "DRAFTER"), help="of one's own instead"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--num-speculative-tokens", type=int, default=4, help="drafted (4)")
    parser.add_argument("--limit", type=int, default=4, help="documents a language (4)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    add_output(parser)
    options = parser.parse_args()
    load = load_average()
    progress = tqdm(total=options.pairs * len(ARMS), unit="run")

    def measured(of: Pair, backend: str, extra: str):
        def measure() -> float:
            speed = run(of, backend, extra, options)
            progress.update()
            return speed

        return measure

    with tempfile.TemporaryDirectory() as folder:
        if options.folders:
            folders = [each.resolve() for each in options.folders]
            of = own_pair(folders, device="cpu", dtype=getattr(torch, options.dtype))
        else:
            of = pair(options.model_pair, Path(folder))
        sides = {name: measured(of, *arm) for name, arm in ARMS.items()}
        found = interleaved(sides, options.pairs, warm_up=0)
        described = of.described()
    progress.close()
    rows = [
        (kind, str(paired_ratios(found[f"ours, {kind}"], found[f"vLLM, {kind}"])), aim)
        for kind, aim in (
            ("drafts", AIMS["own" if options.folders else options.model_pair]),
            ("plain", "none"),
        )
    ]
    speeds = [(name, f"{statistics.median(values):.0f}") for name, values in found.items()]
    parts = [
        f"{described}, greedy, {options.dtype}, 8 rows together, {options.threads} threads, "
        f"{options.num_speculative_tokens} drafted tokens, "
        f"{30 * options.limit} texts of the demo suite, {options.pairs} pairs of processes. "
        f"vLLM {vllm_version()} for CPUs, not compiled (enforce_eager).",
        markdown_table(("decoding", "ours over vLLM, median ratio [range]", "aim"), rows),
        markdown_table(("side", "tokens a second"), speeds),
    ]
    publish(
        page("Our engine beside vLLM on a CPU", parts, load=load, packages=PACKAGES),
        options.output,
    )


if __name__ == "__main__":
    main()
