"""Throughput of two processes that share a run, beside one; each with one thread.

    python benchmarks/processes.py
    python benchmarks/processes.py --pairs 1 --tasks specfair_demo_en --limit 4 --warm-up 0
    python benchmarks/processes.py -o results/benchmarks/processes.md

Runs `specfair run` on the demo suite with the embedded pair, alone and under torch's launcher, in
turns. Decoding: generated tokens over the seconds of the slowest process, as its records tell them
(prompts' passes included). Whole: the same tokens over wall-clock time from start to end, with
Python, libraries and models loaded by every process, and scoring. lm-eval deals documents out in
turn before anything is decoded, so processes differ in work: `balance` is the mean of their seconds
over the slowest one's. Both runs must record the same requests, with the same tokens. Exits with 1
where the median ratio of decoding is below 1.7.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from tqdm import tqdm

from lm_eval_specfair.records import read_records, record_files

WANTED = 1.7
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
OFFLINE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        texts: Request to generated tokens.
        decoding: Seconds of decoding, prompts included, in each process.
        whole: Seconds from start to end.
    """

    texts: dict[str, tuple[int, ...]]
    decoding: tuple[float, ...]
    whole: float

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts.values()))

    @property
    def balance(self) -> float:
        return sum(self.decoding) / len(self.decoding) / max(self.decoding)


def run(launcher: tuple[str, ...], tasks: str, limit: int, batch_size: int) -> Outcome:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        command = [sys.executable, *launcher, "-m", "lm_eval_specfair", "run"]
        command += ["--tasks", tasks, "--limit", str(limit)]
        command += ["--batch_size", str(batch_size), "--device", "cpu"]
        command += ["--model_args", f"records_dir={folder},baseline=0"]
        began = time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | OFFLINE, capture_output=True, text=True, check=False
        )
        whole = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stderr[-3000:]}")
        texts, seconds = {}, []
        for file in record_files(folder):
            seconds.append(0.0)
            for record in _of_one(file):
                if record.request_type == "generate_until":
                    texts[record.request_id] = tuple(record.generated_token_ids)
                    seconds[-1] += record.decode_seconds + record.prefill_seconds
    return Outcome(texts=texts, decoding=tuple(seconds), whole=whole)


def _of_one(file: Path):
    """The records of one process."""
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / file.name).symlink_to(file)
        yield from read_records(Path(alone))


def throughputs(outcomes: list[Outcome], kind: str) -> list[float]:
    seconds = [max(each.decoding) if kind == "decoding" else each.whole for each in outcomes]
    return [each.tokens / spent for each, spent in zip(outcomes, seconds, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tasks", default="specfair_demo", help="30 languages by default")
    parser.add_argument("--limit", type=int, default=20, help="documents of each task")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that don't count")
    add_output(parser)
    arguments = parser.parse_args()
    load = load_average()
    progress = tqdm(total=2 * (arguments.pairs + arguments.warm_up), unit="run")

    def measured(launcher: tuple[str, ...]) -> Callable[[], Outcome]:
        def measure() -> Outcome:
            outcome = run(launcher, arguments.tasks, arguments.limit, arguments.batch_size)
            progress.update()
            return outcome

        return measure

    sides = {"one": measured(()), "two": measured(LAUNCHER)}
    found = interleaved(sides, arguments.pairs, warm_up=arguments.warm_up)
    progress.close()
    for one, two in zip(found["one"], found["two"], strict=True):
        if one.texts != two.texts:
            raise SystemExit("expected the same requests and tokens from one process and from two")
    rows, ratios = [], {}
    for kind in ("decoding", "whole"):
        one, two = (throughputs(found[name], kind) for name in ("one", "two"))
        ratios[kind] = paired_ratios(two, one)
        rows.append(
            [kind, str(Ratio(values=tuple(one))), str(Ratio(values=tuple(two))), str(ratios[kind])]
        )
    is_kept = ratios["decoding"].median >= WANTED
    balance = Ratio(values=tuple(each.balance for each in found["two"]))
    notes = (
        f"Medians of {arguments.pairs} pairs, with their range; {found['one'][0].tokens:,} tokens "
        f"in {len(found['one'][0].texts):,} requests, {arguments.batch_size} rows together, one "
        f"thread a process. Balance of the two processes: {balance}. All requests and tokens are "
        f"those of one process. Decoding at least {WANTED} times as fast: "
        f"{'kept' if is_kept else 'MISSED'}."
    )
    table = markdown_table(["tokens/s", "one process", "two processes", "ratio"], rows)
    publish(page("Two processes beside one", [table, notes], load=load), arguments.output)
    return int(not is_kept)


if __name__ == "__main__":
    raise SystemExit(main())
