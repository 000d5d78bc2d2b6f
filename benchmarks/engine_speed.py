"""Tokens a second of our engine beside transformers' and economize's, in one process.

    python benchmarks/engine_speed.py -o results/benchmarks/engine_speed.md
    python benchmarks/engine_speed.py --pairs embedded --rounds 2 --no-sampled
    python benchmarks/engine_speed.py --pairs large --dtype bfloat16 --together 16 64   # on a GPU
    python benchmarks/engine_speed.py --folders models/smollm2 tuned --dtype bfloat16

All sides decode the same prompts with the same weights, type, device and threads, as many drafted
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
from pairs import (
    PAIRS,
    Ours,
    Pair,
    generate,
    own_pair,
    pair,
    prompts,
    read_bandwidth,
    read_weights,
)
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig

LENGTH = 64
FEWEST = 8  # texts that a side decodes, also one at a time
PACKAGES = ("torch", "transformers", "economize")

# What was aimed at: for pairs of the embedded size, for the random one, the large one and others.
AIMS: dict[tuple[str, str], dict[str, float]] = {
    ("ours, 1", "assisted, 1"): {"embedded": 2, "random": 1.4, "large": 2, "own": 1.3},
    ("ours, 8", "assisted, 1"): {"embedded": 10, "random": 6},
    ("ours, 64", "assisted, 1"): {"large": 20},
    ("ours, 1", "economize, 1"): {"embedded": 1.6, "random": 1.3, "own": 1},
    ("ours, 8", "economize, 8"): {"embedded": 2.5, "random": 2, "own": 1.5},
    ("ours plain, 1", "generate, 1"): {"embedded": 1.2, "random": 1.1, "own": 1},
    ("ours plain, 8", "generate, 8"): {"embedded": 1.2, "random": 1.1, "own": 1},
}


def compared(together: list[int]) -> list[tuple[str, str]]:
    """Ours and theirs, one at a time and so many together."""
    return [
        ("ours, 1", "assisted, 1"),
        *((f"ours, {number}", "assisted, 1") for number in together),
        *((f"ours, {number}", f"economize, {number}") for number in (1, *together)),
        *((f"ours plain, {number}", f"generate, {number}") for number in (1, *together)),
    ]


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
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        self.per_pass = tokens / passes
        return tokens / seconds


def our_side(ours: Ours, texts: list[list[int]], batch_size: int) -> Side:
    def decode() -> tuple[int, int]:
        done = ours.decode(texts, LENGTH, batch_size)
        return sum(len(c.token_ids) for c in done), sum(c.counters.num_steps for c in done)

    return Side(decode)


def generate_side(
    of: Pair, texts: list[list[int]], batch_size: int, *, drafts: int = 0, sampled: bool
) -> Side:
    target, drafter = of.models()
    settings = {"do_sample": sampled, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if not sampled:
        settings = {"do_sample": False}
    if drafts:
        drafter.generation_config.num_assistant_tokens = drafts
        drafter.generation_config.num_assistant_tokens_schedule = "constant"
        drafter.generation_config.assistant_confidence_threshold = 0.0
    passes = Passes(target)

    def decode() -> tuple[int, int]:
        before, tokens = passes.number, 0
        for first in range(0, len(texts), batch_size):
            group = texts[first : first + batch_size]
            helper = drafter if drafts else None
            tokens += generate(target, group, LENGTH, helper, **settings)
        return tokens, (passes.number - before) * batch_size

    return Side(decode)


def economize_side(
    of: Pair, texts: list[list[int]], batch_size: int, *, drafts: int
) -> Side | None:
    try:
        import economize
        from economize.techniques.draft_model import DraftModelConfig
    except ImportError:
        return None
    target, _ = of.models()
    model = economize.apply(
        target,
        DraftModelConfig(model=str(of.drafter), dtype=str(of.dtype).removeprefix("torch.")),
        decoding=economize.DecodeConfig(cycle_length=drafts + 1),
    )
    inputs = [torch.tensor(text, device=of.device) for text in texts]

    def decode() -> tuple[int, int]:
        if batch_size == 1:
            done = [model.decode(each, LENGTH) for each in inputs]
        else:
            done = model.decode_batch(inputs, LENGTH)
        tokens = sum(len(each.tokens) for each in done)
        return tokens, max(1, sum(len(each.acceptance) for each in done))

    return Side(decode)


def compare(of: Pair, sampled: bool, rounds: int, together: list[int], drafts: int) -> str:
    settings = DecodeConfig(num_speculative_tokens=drafts, temperature=1.0 if sampled else 0.0)
    ours, plain = Ours(of, settings), Ours(of, settings, drafts=False)
    few = prompts(FEWEST, of.target)
    assisted = generate_side(of, few, 1, drafts=drafts, sampled=sampled)
    sides: dict[str, Side | None] = {"assisted, 1": assisted}
    for number in (1, *together):
        texts = prompts(max(FEWEST, number), of.target)
        sides |= {
            f"ours, {number}": our_side(ours, texts, number),
            f"economize, {number}": (
                None if sampled else economize_side(of, texts, number, drafts=drafts)
            ),
            f"ours plain, {number}": our_side(plain, texts, number),
            f"generate, {number}": generate_side(of, texts, number, sampled=sampled),
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
    size = {"small": "embedded"}.get(of.name, of.name if of.name in PAIRS else "own")
    for our, their in compared(together):
        if their not in found:
            continue
        ratio: Ratio = paired_ratios(found[our], found[their])
        aim = AIMS.get((our, their), {}).get(size)
        rows.append((our, their, str(ratio), "none" if aim is None else f"{aim:g}"))
    speeds = [
        (name, f"{statistics.median(found[name]):.0f}", f"{present[name].per_pass:.2f}")
        for name in found
    ]
    return "\n\n".join(
        [
            f"## {of.described()}, {'sampled at temperature 1' if sampled else 'greedy'}",
            markdown_table(("ours", "theirs", "median ratio [range]", "aim"), rows),
            markdown_table(("side", "tokens a second", "tokens a target pass"), speeds),
            reading(of, found, present, drafts),
        ]
    )


def reading(of: Pair, found: dict[str, list[float]], sides: dict[str, Side], drafts: int) -> str:
    """What sides with one text read of the weights, beside what the machine can read."""
    target, drafter = (read_weights(model) for model in of.models())
    most = read_bandwidth(of.device)
    rows = []
    for name in ("ours, 1", "assisted, 1", "economize, 1", "ours plain, 1", "generate, 1"):
        if name in found:
            is_plain = name in ("ours plain, 1", "generate, 1")
            a_pass = target + (0 if is_plain else drafts * drafter)
            rate = statistics.median(found[name]) / sides[name].per_pass * a_pass
            rows.append((name, f"{rate / 1e9:.1f} GB", f"{rate / most:.0%}"))
    told = f"of {most / 1e9:.1f} GB, read by a product of 1 GB with a vector"
    return markdown_table(("side", "weights read a second", told), rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["embedded", "random"])
    parser.add_argument(
        "--folders", nargs=2, type=Path, metavar=("TARGET", "DRAFTER"), help="of one's own instead"
    )
    parser.add_argument("--num-speculative-tokens", type=int, default=4, help="drafted (4)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--no-sampled", action="store_true", help="greedy only")
    parser.add_argument(
        "--together", nargs="+", type=int, default=[8], help="texts decoded together (8)"
    )
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=there, help=f"of all sides ({there} here)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    add_output(parser)
    options = parser.parse_args()
    load = load_average()
    placed = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    drafts = options.num_speculative_tokens
    with tempfile.TemporaryDirectory() as folder:
        pairs = [pair(name, Path(folder), **placed) for name in options.pairs]
        if options.folders:
            pairs = [own_pair(options.folders, **placed)]
        parts = [
            compare(of, sampled, options.rounds, options.together, drafts)
            for of in pairs
            for sampled in ((False,) if options.no_sampled else (False, True))
        ]
    intro = (
        f"Prompts of the demo suite ({FEWEST}, or as many as are decoded together), {LENGTH} new "
        f"tokens each, {drafts} drafted tokens, {options.dtype} on {options.device}, "
        f"{options.rounds} rounds in which all sides take turns. The number behind a side's name "
        "is how many texts it decodes together."
    )
    publish(
        page("Our engine beside others", [intro, *parts], load=load, packages=PACKAGES),
        options.output,
    )


if __name__ == "__main__":
    main()
