"""Tokens a second of our engine beside transformers' and economize's, in one process.

    python benchmarks/engine_speed.py -o results/benchmarks/engine_speed.md
    python benchmarks/engine_speed.py --pairs embedded --rounds 2 --no-sampled

All sides decode the same prompts with the same weights in fp32, the same threads, four drafted
tokens and full lengths (no EOS); they take turns in one process after a round that warms up. Token
ids are counted. economize 0.3.2 (`pip install economize==0.3.2`) is left out where it is missing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import (
    Ratio,
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)
from pairs import PAIRS, Ours, Pair, generate, pair, prompts
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig

GAMMA, LENGTH, TOGETHER = 4, 64, 8
PACKAGES = ("torch", "transformers", "economize")

# Ours, theirs, and what was aimed at: for pairs of the embedded size, and for the random one.
COMPARED = (
    ("ours, 1", "assisted, 1", (2.0, 1.4)),
    ("ours, 8", "assisted, 1", (10, 6)),
    ("ours, 1", "economize, 1", (1.6, 1.3)),
    ("ours, 8", "economize, 8", (2.5, 2.0)),
    ("ours plain, 1", "generate, 1", (1.2, 1.1)),
    ("ours plain, 8", "generate, 8", (1.2, 1.1)),
)


class Passes:
    """Counts a model's forward passes."""

    def __init__(self, model) -> None:
        self.number, self._forward = 0, model.forward
        model.forward = self._count

    def _count(self, *args, **kwargs):
        self.number += 1
        return self._forward(*args, **kwargs)


class Side:
    """One way to decode all prompts: tokens a second, and tokens a target pass of the last time."""

    def __init__(self, decode: Callable[[], tuple[int, int]]) -> None:
        self.decode, self.per_pass = decode, 0.0

    def __call__(self) -> float:
        torch.manual_seed(0)
        start = time.perf_counter()
        tokens, passes = self.decode()
        seconds = time.perf_counter() - start
        self.per_pass = tokens / passes
        return tokens / seconds


def our_side(ours: Ours, texts: list[list[int]], batch_size: int) -> Side:
    def decode() -> tuple[int, int]:
        done = ours.decode(texts, LENGTH, batch_size)
        return sum(len(c.token_ids) for c in done), sum(c.statistics.num_steps for c in done)

    return Side(decode)


def generate_side(of: Pair, texts: list[list[int]], batch_size: int, assisted: bool, sampled: bool):
    target, drafter = of.models()
    settings = {"do_sample": sampled, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if not sampled:
        settings = {"do_sample": False}
    if assisted:
        drafter.generation_config.num_assistant_tokens = GAMMA
        drafter.generation_config.num_assistant_tokens_schedule = "constant"
        drafter.generation_config.assistant_confidence_threshold = 0.0
    passes = Passes(target)

    def decode() -> tuple[int, int]:
        before, tokens = passes.number, 0
        for first in range(0, len(texts), batch_size):
            group = texts[first : first + batch_size]
            helper = drafter if assisted else None
            tokens += generate(target, group, LENGTH, helper, **settings)
        return tokens, (passes.number - before) * batch_size

    return Side(decode)


def economize_side(of: Pair, texts: list[list[int]], batch_size: int) -> Side | None:
    try:
        import economize
        from economize.techniques.draft_model import DraftModelConfig
    except ImportError:
        return None
    target, _ = of.models()
    model = economize.apply(
        target,
        DraftModelConfig(model=str(of.drafter), dtype="float32"),
        decoding=economize.DecodeConfig(cycle_length=GAMMA + 1),
    )
    inputs = [torch.tensor(text) for text in texts]

    def decode() -> tuple[int, int]:
        if batch_size == 1:
            done = [model.decode(each, LENGTH) for each in inputs]
        else:
            done = model.decode_batch(inputs, LENGTH)
        tokens = sum(len(each.tokens) for each in done)
        return tokens, max(1, sum(len(each.acceptance) for each in done))

    return Side(decode)


def compare(of: Pair, sampled: bool, rounds: int) -> str:
    texts = prompts(TOGETHER)
    settings = DecodeConfig(num_speculative_tokens=GAMMA, temperature=1.0 if sampled else 0.0)
    ours, plain = Ours(of, settings), Ours(of, settings, drafts=False)
    sides: dict[str, Side | None] = {
        "ours, 1": our_side(ours, texts, 1),
        "ours, 8": our_side(ours, texts, TOGETHER),
        "assisted, 1": generate_side(of, texts, 1, assisted=True, sampled=sampled),
        "economize, 1": None if sampled else economize_side(of, texts, 1),
        "economize, 8": None if sampled else economize_side(of, texts, TOGETHER),
        "ours plain, 1": our_side(plain, texts, 1),
        "generate, 1": generate_side(of, texts, 1, assisted=False, sampled=sampled),
        "ours plain, 8": our_side(plain, texts, TOGETHER),
        "generate, 8": generate_side(of, texts, TOGETHER, assisted=False, sampled=sampled),
    }
    present = {name: side for name, side in sides.items() if side is not None}
    progress = tqdm(total=(rounds + 1) * len(present), desc=of.name, unit="side")

    def told(side: Side) -> Callable[[], float]:
        def measure() -> float:
            speed = side()
            progress.update()
            return speed

        return measure

    found = interleaved({name: told(side) for name, side in present.items()}, rounds)
    progress.close()
    rows = []
    for our, their, aims in COMPARED:
        if their not in found:
            continue
        ratio: Ratio = paired_ratios(found[our], found[their])
        rows.append((our, their, str(ratio), f"{aims[of.name == 'random']:g}"))
    speeds = [
        (name, f"{statistics.median(found[name]):.0f}", f"{present[name].per_pass:.2f}")
        for name in found
    ]
    return "\n\n".join(
        [
            f"## {of.described()}, {'sampled at temperature 1' if sampled else 'greedy'}",
            markdown_table(("ours", "theirs", "median ratio [range]", "aim"), rows),
            markdown_table(("side", "tokens a second", "tokens a target pass"), speeds),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--no-sampled", action="store_true", help="greedy only")
    add_output(parser)
    options = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            compare(pair(name, Path(folder)), sampled, options.rounds)
            for name in options.pairs
            for sampled in ((False,) if options.no_sampled else (False, True))
        ]
    intro = (
        f"{TOGETHER} prompts of the demo suite, {LENGTH} new tokens each, {GAMMA} drafted tokens, "
        f"fp32, {options.rounds} rounds in which all sides take turns. The number behind a side's "
        "name is how many texts it decodes together."
    )
    publish(
        page("Our engine beside others", [intro, *parts], load=load, packages=PACKAGES),
        options.output,
    )


if __name__ == "__main__":
    main()
