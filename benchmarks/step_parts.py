"""Where the processor time of a step goes.

    OMP_NUM_THREADS=1 python benchmarks/step_parts.py -o results/benchmarks/step_parts.md
    OMP_NUM_THREADS=1 python benchmarks/step_parts.py --pairs random --rounds 3

Parts are functions of the engine, timed one by one while it decodes; a part marked with dots is
inside the one above it. One thread, so that processor time is wall-clock time without the waits
for other jobs.
"""

import argparse
import functools
import tempfile
import time
from collections import Counter
from pathlib import Path

from measuring import add_output, load_average, markdown_table, page, publish
from pairs import PAIRS, Ours, Pair, pair, prompts
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.fused import fused_forward
from lm_eval_specfair.decoding.models import CausalModel

GAMMA, LENGTH, TEXTS = 4, 64, 8
# Name, class, method, and the role it is counted for.
PARTS = (
    ("prompts", CausalModel, "read_prompts", None),
    ("a step", Engine, "_step", None),
    (". drafting passes", CausalModel, "score", "drafter"),
    (". the verifying pass", CausalModel, "score", "target"),
    (". . attention with its products", fused_forward.FusedForward, "_attention", "target"),
    (". . . attention itself", fused_forward.FusedForward, "_attended", "target"),
    (". . MLP", fused_forward.FusedForward, "_mlp", "target"),
    (". . head", fused_forward.FusedForward, "scores", "target"),
    (". accepting", Engine, "_verify", None),
    (". looking for faults", Engine, "_faults", None),
    (". measuring", Engine, "_measure", None),
)


class Parts:
    """Processor seconds of each part while it is open; the methods are put back behind it."""

    def __init__(self, ours: Ours) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        target = ours.target
        self._targets = {id(target), id(target._fused)}
        self._originals = {(kind, name): getattr(kind, name) for _, kind, name, _ in PARTS}
        self._is_prompt = False

    def __enter__(self) -> "Parts":
        for kind, name in self._originals:
            setattr(kind, name, self._timed(kind, name))
        return self

    def __exit__(self, *error: object) -> None:
        for (kind, name), original in self._originals.items():
            setattr(kind, name, original)

    def _timed(self, kind: type, name: str):
        original = self._originals[kind, name]
        named = {role: part for part, of, method, role in PARTS if (of, method) == (kind, name)}

        @functools.wraps(original)
        def timed(of, *args, **kwargs):
            role = "target" if id(of) in self._targets else "drafter"
            part = named.get(None, named.get(role))
            start = time.process_time()
            was, self._is_prompt = self._is_prompt, self._is_prompt or name == "read_prompts"
            found = original(of, *args, **kwargs)
            counts = part is not None and (name == "read_prompts" or not self._is_prompt)
            if counts:
                self.seconds[part] += time.process_time() - start
                self.calls[part] += 1
            self._is_prompt = was
            return found

        return timed


def by_part(of: Pair, batch_size: int, rounds: int) -> list[tuple[str, str, str]]:
    """Milliseconds a step of each part, and its share of the steps."""
    ours, texts = Ours(of, DecodeConfig(num_speculative_tokens=GAMMA)), prompts(TEXTS)
    ours.decode(texts, 8, batch_size)
    with Parts(ours) as parts:
        for _ in range(rounds):
            ours.decode(texts, LENGTH, batch_size)
    whole, steps = parts.seconds["a step"], parts.calls["a step"]
    return [
        (name, f"{1000 * parts.seconds[name] / steps:.1f}", f"{parts.seconds[name] / whole:.1%}")
        for name, *_ in PARTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["embedded", "random"])
    parser.add_argument("--rounds", type=int, default=5, help="times that all is decoded (5)")
    add_output(parser)
    options = parser.parse_args()
    load, parts = load_average(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(options.pairs, desc="pairs", unit="pair"):
            of = pair(name, Path(folder))
            parts.append(f"## {of.described()}, greedy")
            for batch_size in (1, TEXTS):
                rows = by_part(of, batch_size, options.rounds)
                head = (f"batch size {batch_size}", "ms a step", "of a step")
                parts.append(markdown_table(head, rows))
    intro = (
        f"{TEXTS} prompts of the demo suite, {LENGTH} new tokens each, {GAMMA} drafted tokens, "
        "fp32, processor time. A step is one round of all rows that are decoded together; prompts "
        "are no part of it, and their line is per step to compare."
    )
    title = "The parts of a step"
    text = page(title, [intro, *parts], load=load, packages=("torch", "transformers"))
    publish(text, options.output)


if __name__ == "__main__":
    main()
