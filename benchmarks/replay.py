"""Replaying finished texts beside decoding them: one drafter, eight drafters, with the target.

    python benchmarks/replay.py -o results/benchmarks/replay.md
    python benchmarks/replay.py --shared 600 -o results/benchmarks/replay_shared.md

Both sides take the same prompts, greedy, and must come to the same steps. Decoding is this
package's engine with eight rows; models are loaded before the clock starts. The clock is processor
time: with OMP_NUM_THREADS=1 it is wall-clock time of a machine that does nothing else.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)
from pairs import PAIRS, Ours, pair, prompts
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.replays.drafters.replayed_drafter import ReplayedModel
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.passes.quick_products import quicken
from lm_eval_specfair.replays.replaying import replay_texts

ROWS = 8
DRAFTERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=["embedded", "small"], choices=PAIRS)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--shared", type=int, default=0, help="tokens before each prompt, as few-shot examples are"
    )
    add_output(parser)
    args = parser.parse_args()
    load, rows = load_average(), []
    if args.shared:
        shared_prefix(args, load)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(args.pairs):
            rows += measured(name, Path(folder), args)
    headers = ["pair", "replayed", "times as fast as decoding", "steps that differ"]
    note = (
        f"{args.prompts} prompts of {args.tokens} tokens each, {args.rounds} interleaved rounds "
        "after a warm-up; median [smallest, largest] of the rounds' ratios of processor time. "
        "Eight drafters are compared with eight decodings. Aims: 30, 7 and 10."
    )
    text = page(
        "Replaying texts beside decoding them", [note, markdown_table(headers, rows)], load=load
    )
    publish(text, args.output)


def shared_prefix(args: argparse.Namespace, load: str) -> None:
    """Texts behind one prefix, as they would be with few-shot examples, read both ways."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(args.pairs):
            models = pair(name, Path(folder))
            target, reader = readers_of(models)
            generator = np.random.default_rng(0)
            prefix = generator.integers(3, reader.vocab_size, args.shared).tolist()
            texts = [
                KnownText(
                    request_id=str(number),
                    task="demo",
                    doc_id=number,
                    prompt=[*prefix, *prompt],
                    response=generator.integers(3, reader.vocab_size, args.tokens).tolist(),
                    text="",
                    max_new_tokens=args.tokens,
                )
                for number, prompt in enumerate(prompts(args.prompts))
            ]
            drafter = ReplayedModel(reader, vocab_size=target.vocab_size)
            sums: dict[bool, list[float]] = {}

            def replay(
                share: bool, texts: list[KnownText] = texts, target: OnePass = target,
                drafter: ReplayedModel = drafter, sums: dict[bool, list[float]] = sums,
            ) -> float:  # fmt: skip
                started = time.process_time()
                found = list(
                    replay_texts(texts, {"": drafter}, [4], target=target, share_prefixes=share)
                )
                seconds = time.process_time() - started
                found.sort(key=lambda each: each.text.request_id)
                sums[share] = [each.counters.overlap_sum for each in found]
                return seconds

            replay(True)
            seconds = interleaved(
                {"whole": lambda: replay(False), "shared": lambda: replay(True)}, args.rounds
            )
            differing = max(abs(a - b) for a, b in zip(sums[True], sums[False], strict=True))
            ratios = paired_ratios(seconds["whole"], seconds["shared"])
            rows.append([models.described(), str(ratios), f"{differing:.1e}"])
    note = (
        f"{args.prompts} texts of {args.tokens} tokens behind {args.shared} shared tokens and a "
        f"prompt of their own, one drafter and the target's pass, {args.rounds} interleaved rounds "
        "after a warm-up; median [smallest, largest] of the rounds' ratios of processor time."
    )
    headers = ["pair", "times as fast as reading texts whole", "overlap sums differ by at most"]
    text = page("Reading a shared prefix once", [note, markdown_table(headers, rows)], load=load)
    publish(text, args.output)


def readers_of(models: Any) -> list[OnePass]:
    """Target and drafter of a pair, as a replay reads with them."""
    return [
        OnePass(quicken(AutoModelForCausalLM.from_pretrained(folder).eval()))
        for folder in (models.target, models.drafter)
    ]


def measured(name: str, folder: Path, args: argparse.Namespace) -> list[list[object]]:
    """Rows of the table for one pair."""
    models = pair(name, folder)
    ours = Ours(models, DecodeConfig())
    asked = prompts(args.prompts)
    texts: list[KnownText] = []
    expected: dict[str, list[int]] = {}

    def decode() -> float:
        started = time.process_time()
        done = ours.decode(asked, args.tokens, ROWS)
        seconds = time.process_time() - started
        texts[:] = [
            KnownText(
                request_id=each.request.request_id,
                task="demo",
                doc_id=0,
                prompt=each.request.prompt,
                response=each.token_ids,
                text="",
                max_new_tokens=args.tokens,
            )
            for each in done
        ]
        expected.update({e.request.request_id: e.counters.accepted_per_step for e in done})
        return seconds

    target, reader = readers_of(models)
    differing: dict[str, int] = {}

    def replay(label: str, number: int, measuring: OnePass | None) -> float:
        # One of each: a drafter that is named twice is read once.
        drafters = {
            str(place): ReplayedModel(reader, vocab_size=target.vocab_size)
            for place in range(number)
        }
        started = time.process_time()
        found = list(replay_texts(texts, drafters, [4], target=measuring))
        seconds = time.process_time() - started
        differing[label] = (
            sum(each.counters.accepted_per_step != expected[each.text.request_id] for each in found)
            // number
        )
        return seconds

    labels = {
        "one drafter's counts": (1, None),
        "one drafter, with the target's pass": (1, target),
        f"{DRAFTERS} drafters, with the target's pass": (DRAFTERS, target),
    }
    sides = {"decoding": decode} | {
        label: lambda label=label, what=what: replay(label, *what) for label, what in labels.items()
    }
    decode()
    seconds = interleaved(sides, args.rounds)
    return [
        [
            models.described(),
            label,
            str(paired_ratios([number * each for each in seconds["decoding"]], seconds[label])),
            f"{differing[label]} of {len(asked)}",
        ]
        for label, (number, _) in labels.items()
    ]


if __name__ == "__main__":
    main()
