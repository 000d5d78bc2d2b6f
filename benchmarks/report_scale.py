"""How long a report takes over very many records, and how much memory.

    python benchmarks/report_scale.py                     # 1,000,000 records in 100 groups
    python benchmarks/report_scale.py --records 100000 --parallel --keep runs/scale

Records are drawn from the acceptance model (drafted tokens accepted independently, with a chance
that differs between groups and documents) and written to a folder once. The report is made in a
process of its own, so that its peak memory is its own; numpy may use as many threads as
OMP_NUM_THREADS says. Prints seconds and MiB; exits with 1 where the limit is missed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GAMMA = 4
SECONDS, MEBIBYTES = 60, 2_000


def write(folder: Path, num_records: int, num_groups: int, *, parallel: bool, seed: int) -> None:
    """A run's folder with so many requests; one in a hundred was also decoded plainly."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    run = {"schema_version": 1, "finished": "now", "settings": {"seed": seed}}
    (folder / "run.json").write_text(json.dumps(run))
    per_group = num_records // num_groups
    with (folder / "records.jsonl").open("w") as file:
        for group in range(num_groups):
            rate = 0.3 + 0.5 * group / max(num_groups - 1, 1)
            first = 0 if parallel else group * per_group
            rates = np.clip(generator.normal(rate, 0.06, per_group), 0.02, 0.98)
            steps = generator.integers(8, 20, per_group)
            for number in range(per_group):
                file.write(
                    _line(f"g{group:03d}", first + number, rates[number], steps[number], generator)
                )


def _line(group: str, doc_id: int, rate: float, steps: int, generator: np.random.Generator) -> str:
    accepted = np.minimum(generator.geometric(1 - rate, steps) - 1, GAMMA)
    kept, examined = int(accepted.sum()), int(np.minimum(accepted + 1, GAMMA).sum())
    tokens, steps = int(steps) + kept, int(steps)
    is_paired = doc_id % 100 == 0
    record = {
        "request_id": f"suite_{group}/{doc_id}/0/0/00000000",
        "task": f"suite_{group}",
        "doc_id": doc_id,
        "request_type": "generate_until",
        "group_fields": {"domain": group},
        "num_prompt_tokens": 50,
        "num_generated_tokens": tokens,
        "num_generated_bytes": 3 * tokens,
        "num_generated_chars": 3 * tokens,
        "num_spec_steps": steps,
        "num_draft_tokens": GAMMA * steps,
        "num_accepted_draft_tokens": kept,
        "num_examined_draft_tokens": examined,
        "acceptance_histogram": np.bincount(accepted, minlength=GAMMA + 1).tolist(),
        "drafted_per_step": [GAMMA] * steps,
        "accepted_per_step": accepted.tolist(),
        "overlap_sum": float(rate * examined),
        "kl_sum": float((1 - rate) * examined),
        "cross_entropy_sum": float((3 - rate) * examined),
        "target_entropy_sum": 2.0 * examined,
        "num_distribution_positions": examined,
        "num_infinite_positions": 0,
        "draft_seconds": 0.0016 * steps,
        "verify_seconds": 0.0105 * steps,
        "decode_seconds": 0.0126 * steps * float(generator.uniform(0.97, 1.03)),
        "prefill_seconds": 0.01,
        "baseline_seconds": 0.01 * tokens if is_paired else None,
        "baseline_generated_tokens": tokens if is_paired else None,
        "baseline_agrees": True if is_paired else None,
        "finish_reason": "length",
        "settings": {
            "num_speculative_tokens": GAMMA,
            "temperature": 1.0,
            "top_k": None,
            "top_p": None,
        },
    }
    return json.dumps(record) + "\n"


def report(folder: Path) -> None:
    """Make the report; what it took, as JSON on the last line."""
    from lm_eval_specfair.reporting.summary import build_summary, render

    began = time.perf_counter()
    summary = build_summary([folder], group_by="domain")
    text = render(summary, "json")
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "requests": summary.counts.requests,
                "groups": len(summary.groups),
                "resamples": summary.num_resamples,
                "report_bytes": len(text),
                "seconds": round(seconds, 1),
                "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
                "peak_mebibytes": round(used.ru_maxrss / 1024),
            }
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--parallel", action="store_true", help="the same documents in all groups")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the records, reused if it is there")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report is not None:
        report(arguments.report)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        if not (folder / "run.json").exists():
            write(
                folder,
                arguments.records,
                arguments.groups,
                parallel=arguments.parallel,
                seed=arguments.seed,
            )
        done = subprocess.run(
            [sys.executable, __file__, "--report", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={"OMP_NUM_THREADS": "2", **os.environ},
        )
    found = json.loads(done.stdout.splitlines()[-1])
    for name, value in found.items():
        print(f"{name:>20}  {value:,}")
    missed = found["seconds"] > SECONDS or found["peak_mebibytes"] > MEBIBYTES
    print(f"{'limit':>20}  {SECONDS} s, {MEBIBYTES:,} MiB: {'missed' if missed else 'kept'}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
