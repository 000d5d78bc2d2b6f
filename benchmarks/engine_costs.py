"""Where our engine's time goes: batch sizes, what measuring costs, useful work on ragged lengths.

    python benchmarks/engine_costs.py -o results/benchmarks/engine_costs.md
    python benchmarks/engine_costs.py --rounds 2 --batch-sizes 1 8

Speculative and plain decoding of the embedded pair take turns at each batch size. c and v are the
costs of a drafter pass and of a verifying pass in units of a plain step, o is all else; the model
of the speed-up is tau / (c gamma + v + o). Row-steps are useful where there was a row to decode.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from measuring import (
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)
from pairs import Ours, pair, prompts
from tqdm import tqdm

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.engine import Engine

GAMMA, LENGTH = 4, 64


def timed(ours: Ours, texts, batch_size: int):
    """Tokens, target passes per row, and seconds: whole, drafting, verifying, decoding."""

    def measure() -> dict[str, float]:
        start = time.perf_counter()
        done = [each.counters for each in ours.decode(texts, LENGTH, batch_size)]
        whole = time.perf_counter() - start
        return {
            "tokens": len(texts) * LENGTH,
            "steps": sum(each.num_steps for each in done),
            "whole": whole,
            "prefill": sum(each.prefill_seconds for each in done),
            "draft": sum(each.draft_seconds for each in done),
            "verify": sum(each.verify_seconds for each in done),
            "decode": sum(each.decode_seconds for each in done),
        }

    return measure


def by_batch_size(batch_sizes: list[int], rounds: int, of) -> str:
    settings = DecodeConfig(num_speculative_tokens=GAMMA)
    ours, plain = Ours(of, settings), Ours(of, settings, drafts=False)
    rows = []
    for batch_size in tqdm(batch_sizes, desc="batch sizes"):
        texts = prompts(max(8, batch_size))
        sides = {"spec": timed(ours, texts, batch_size), "plain": timed(plain, texts, batch_size)}
        found = interleaved(sides, rounds)
        # Seconds a token and row, so that both sides count the same work.
        measured = paired_ratios(
            [each["decode"] / each["tokens"] for each in found["plain"]],
            [each["decode"] / each["tokens"] for each in found["spec"]],
        )
        modelled, costs = [], []
        for spec, base in zip(found["spec"], found["plain"], strict=True):
            step = base["decode"] / base["steps"]
            c = spec["draft"] / spec["steps"] / GAMMA / step
            v = spec["verify"] / spec["steps"] / step
            o = (spec["decode"] - spec["draft"] - spec["verify"]) / spec["steps"] / step
            costs.append((c, v, o))
            # Without o, the rest: with it the model is the measurement, by definition.
            modelled.append(spec["tokens"] / spec["steps"] / (c * GAMMA + v))
        c, v, o = (statistics.median(each) for each in zip(*costs, strict=True))
        tau = found["spec"][0]["tokens"] / found["spec"][0]["steps"]
        rows.append(
            (
                batch_size,
                f"{tau:.2f}",
                f"{c:.3f}",
                f"{v:.2f}",
                f"{o:.3f}",
                f"{c * GAMMA + v + o:.2f}",
                str(measured),
                f"{paired_ratios([float(x) for x in measured.values], modelled)}",
                f"{statistics.median(e['tokens'] / e['whole'] for e in found['spec']):.0f}",
                f"{statistics.median(e['tokens'] / e['whole'] for e in found['plain']):.0f}",
            )
        )
    headers = (
        "batch size", "τ", "c", "v(γ)", "o", "τ to break even", "measured speed-up",
        "measured / modelled with o = 0", "tokens a second", "plain",
    )  # fmt: skip
    return markdown_table(headers, rows)


def measuring_costs(rounds: int, of) -> str:
    """Decoding with and without the sums of overlap, KL and cross-entropy."""
    ours = Ours(of, DecodeConfig(num_speculative_tokens=GAMMA))
    rows = []
    for batch_size in tqdm((1, 8), desc="statistics on and off"):
        texts = prompts(8)
        on = timed(ours, texts, batch_size)

        def off(on=on):
            kept = Engine._measure
            Engine._measure = lambda *args: None
            try:
                return on()
            finally:
                Engine._measure = kept

        found = interleaved({"on": on, "off": off}, 2 * rounds)
        share = paired_ratios(
            [each["whole"] for each in found["on"]], [each["whole"] for each in found["off"]]
        )
        rows.append((batch_size, str(share)))
    return markdown_table(("batch size", "seconds with statistics / without"), rows)


def ragged_work(of) -> str:
    """200 requests of 4 to 400 tokens: what share of the batch's places did useful work."""
    chance = random.Random(0)
    texts = [chance.choice(prompts(30)) for _ in range(200)]
    lengths = [chance.randint(4, 400) for _ in texts]
    rows = []
    for batch_size in tqdm((8,), desc="ragged lengths"):
        ours = Ours(of, DecodeConfig(num_speculative_tokens=GAMMA))
        score, passes = ours.target.score, []

        def counted(tokens, at=None, score=score, passes=passes):
            passes.append(len(tokens))
            return score(tokens, at)

        ours.target.score = counted
        done = ours.decode(texts, lengths, batch_size)
        useful = sum(each.counters.num_steps for each in done)
        assert useful == sum(passes)
        rows.append((batch_size, len(passes), useful, f"{useful / batch_size / len(passes):.1%}"))
    return markdown_table(("batch size", "target passes", "row-steps", "useful places"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    add_output(parser)
    options = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        of = pair("embedded", Path(folder))
        parts = [
            f"{of.described()}, greedy, {LENGTH} new tokens, {GAMMA} drafted tokens, fp32, "
            f"{options.rounds} rounds. Speed-ups are of decoding, tokens a second of everything.",
            "## By batch size",
            by_batch_size(options.batch_sizes, options.rounds, of),
            "## What measuring costs",
            measuring_costs(options.rounds, of),
            "## Ragged lengths",
            ragged_work(of),
        ]
    publish(page("Where our engine's time goes", parts, load=load), options.output)


if __name__ == "__main__":
    main()
