"""Seconds and memory of a report over very many records, from JSON Lines and from Parquet.

    python benchmarks/report_scale.py                     # 1,000,000 records in 100 groups
    python benchmarks/report_scale.py --records 100000 --parallel --keep runs/scale
    python benchmarks/report_scale.py --former ../former -o results/benchmarks/report_scale.md

Records are drawn from the model of acceptance (drafted tokens accepted independently, with a chance
that differs between groups and documents), with tokens and texts as a run writes them, and written
to a folder once. They are exported to Parquet and from there to JSON Lines again, which must be the
same bytes; the reports made from both forms must be equal. Each step is a process of its own, so
that its peak memory is its own; numpy may use as many threads as OMP_NUM_THREADS says. `--former`
is a checkout of another build: it writes the same requests, and both make reports of these files in
turns. Exits with 1 where a limit is missed.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import (
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
    resident_bytes,
)

from lm_eval_specfair.records import (
    Record,
    RecordWriter,
    Settings,
    export_run,
    record_files,
    write_run,
)

GAMMA, VOCABULARY = 4, 8_000
SETTINGS = Settings(num_speculative_tokens=GAMMA, temperature=1.0, top_k=None, top_p=None)
LIMITS = {"report from Parquet": 10, "report from JSON Lines": 25}  # seconds
BYTES = 1_000_000_000
PACKAGES = ("numpy", "scipy", "msgspec", "pyarrow")
LETTERS = "abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя"


def write(folder: Path, num_records: int, num_groups: int, *, parallel: bool, seed: int) -> None:
    """A run's folder with so many requests; one in a hundred was also decoded plainly."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 8, VOCABULARY)
    words = ["".join(generator.choice(list(LETTERS), length)) for length in lengths]
    folder.mkdir(parents=True, exist_ok=True)
    per_group = num_records // num_groups
    writer = RecordWriter(folder)
    for group in range(num_groups):
        rate = 0.3 + 0.5 * group / max(num_groups - 1, 1)
        first = 0 if parallel else group * per_group
        rates = np.clip(generator.normal(rate, 0.06, per_group), 0.02, 0.98)
        for number in range(per_group):
            writer.write(_record(f"g{group:03d}", first + number, rates[number], words, generator))
    writer.close()
    tasks = {f"suite_g{group:03d}": {} for group in range(num_groups)}
    write_run(folder, {"finished": "now", "settings": {"seed": seed}, "tasks": tasks})


def _record(
    group: str, doc_id: int, rate: float, words: list[str], generator: np.random.Generator
) -> Record:
    steps = int(generator.integers(8, 20))
    accepted = np.minimum(generator.geometric(1 - rate, steps) - 1, GAMMA)
    kept, examined = int(accepted.sum()), int(np.minimum(accepted + 1, GAMMA).sum())
    tokens = generator.integers(0, VOCABULARY, steps + kept).tolist()
    text = " ".join(words[token] for token in tokens)
    is_paired = doc_id % 100 == 0
    return Record(
        request_id=f"suite_{group}/{doc_id}/0/0/00000000",
        task=f"suite_{group}",
        doc_id=doc_id,
        request_type="generate_until",
        group_fields={"domain": group},
        num_prompt_tokens=50,
        num_generated_tokens=len(tokens),
        num_generated_bytes=len(text.encode()),
        num_generated_chars=len(text),
        num_spec_steps=steps,
        num_draft_tokens=GAMMA * steps,
        num_accepted_draft_tokens=kept,
        num_examined_draft_tokens=examined,
        acceptance_histogram=np.bincount(accepted, minlength=GAMMA + 1).tolist(),
        drafted_per_step=[GAMMA] * steps,
        accepted_per_step=accepted.tolist(),
        overlap_sum=float(rate * examined),
        kl_sum=float((1 - rate) * examined),
        cross_entropy_sum=float((3 - rate) * examined),
        target_entropy_sum=2.0 * examined,
        num_distribution_positions=examined,
        num_infinite_positions=0,
        draft_seconds=0.0016 * steps,
        verify_seconds=0.0105 * steps,
        decode_seconds=0.0126 * steps * float(generator.uniform(0.97, 1.03)),
        prefill_seconds=0.01,
        baseline_seconds=0.01 * len(tokens) if is_paired else None,
        baseline_generated_tokens=len(tokens) if is_paired else None,
        baseline_agrees=True if is_paired else None,
        num_active_rows_sum=8 * steps,
        finish_reason="length",
        generated_token_ids=tokens,
        generated_text=text,
        settings=SETTINGS,
    )


def report(folder: Path) -> str:
    """Digest of the report, without the folder's name."""
    from lm_eval_specfair.reporting.report.build_report import build_summary, render

    found = json.loads(render(build_summary([folder], group_by="domain"), "json"))
    del found["run"]["folders"]
    text = json.dumps(found, sort_keys=True).replace(folder.name, "run")  # notes name the folder
    return hashlib.sha256(text.encode()).hexdigest()


def export(folder: Path, target: Path, form: str) -> str:
    """Digest of the records that are written."""
    export_run(folder, target, form=form, watch=iter)
    return digest(target)


def digest(folder: Path) -> str:
    [file] = record_files(folder)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def step(*arguments: str, checkout: Path | None = None) -> dict[str, object]:
    """One step in a process of its own, with another build's package: what it gave and took."""
    package = {"PYTHONPATH": str(checkout.resolve())} if checkout else {}
    done = subprocess.run(
        [sys.executable, __file__, "--step", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "2", **os.environ, **package},
    )
    return json.loads(done.stdout)


def of_former(former: Path, root: Path, *options: str) -> dict[str, Path]:
    """Folders that another build wrote, since an older one does not know newer fields."""
    lines, columns = (root / f"former-{name}" for name in ("jsonl", "parquet"))
    for folder, name, *given in (
        (lines, "write", str(lines), *options),
        (columns, "export", str(lines), str(columns), ".parquet"),
    ):
        if not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a run that was stopped left
            step(name, *given, checkout=former)
    return {"report from JSON Lines": lines, "report from Parquet": columns}


def against(former: Path, name: str, folder: Path, pairs: int) -> str:
    """A line on a report by another build and by this one, in turns."""
    sides = {
        "former": lambda: step("report", str(folder), checkout=former),
        "this": lambda: step("report", str(folder)),
    }
    found = interleaved(sides, pairs, warm_up=0)
    seconds = {side: [float(each["s"]) for each in found[side]] for side in sides}
    peaks = [max(each["peak"] for each in found[side]) / 2**20 for side in sides]
    ratio = paired_ratios(seconds["former"], seconds["this"])
    return (
        f"- A {name} is {ratio} times as fast as by the former build, in {pairs} pairs "
        f"({min(seconds['former']):.1f} and {min(seconds['this']):.1f} s at best; peak "
        f"{peaks[0]:,.0f} and {peaks[1]:,.0f} MiB)."
    )


def run_step(name: str, *arguments: str) -> None:
    began = time.perf_counter()
    if name == "write":
        records, groups, parallel, seed = map(int, arguments[1:])
        result = write(Path(arguments[0]), records, groups, parallel=bool(parallel), seed=seed)
    elif name == "report":
        result = report(Path(arguments[0]))
    else:
        result = export(Path(arguments[0]), Path(arguments[1]), arguments[2])
    seconds, processor = time.perf_counter() - began, time.process_time()
    peak = resident_bytes(peak=True)
    print(json.dumps({"result": result, "s": seconds, "cpu": processor, "peak": peak}))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--parallel", action="store_true", help="the same documents in all groups")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the records, reused if it is there")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--former", type=Path, help="checkout of another build, to be set against")
    parser.add_argument("--pairs", type=int, default=3, help="reports of each build")
    parser.add_argument(
        "--reports", action="store_true", help="time reports only, where --keep has all else"
    )
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.step is not None:
        run_step(*arguments.step)
        return 0
    load = load_average()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        lines, columns, again = (root / name for name in ("jsonl", "parquet", "jsonl-again"))
        options = [arguments.records, arguments.groups, int(arguments.parallel), arguments.seed]
        options = [str(option) for option in options]
        if not (lines / "run.json").exists():
            step("write", str(lines), *options)
        exports = {
            "export to Parquet": (lines, columns, ".parquet"),
            "import to JSON Lines": (columns, again, ".jsonl"),
        }
        steps = {}
        for name, (source, made, form) in exports.items():
            if not (arguments.reports and (made / "run.json").exists()):
                shutil.rmtree(made, ignore_errors=True)
                steps[name] = step("export", str(source), str(made), form)
            reported = f"report from {'JSON Lines' if source == lines else 'Parquet'}"
            steps[reported] = step("report", str(source))
        sizes = {
            form: record_files(folder)[0].stat().st_size
            for form, folder in (("JSON Lines", lines), ("Parquet", columns))
        }
        is_same = {
            "Records imported from Parquet are the run's, byte for byte": (
                digest(again) == digest(lines)
            ),
            "The reports from both forms are equal": (
                steps["report from JSON Lines"]["result"] == steps["report from Parquet"]["result"]
            ),
        }
        former = (
            [
                against(arguments.former, name, folder, arguments.pairs)
                for name, folder in of_former(arguments.former, root, *options).items()
            ]
            if arguments.former
            else []
        )
    rows = [
        [name, f"{each['s']:.0f}", f"{each['cpu']:.0f}", f"{each['peak'] / 2**20:,.0f}"]
        for name, each in steps.items()
    ]
    is_within = all(each["peak"] < BYTES for each in steps.values())
    is_quick = all(steps[name]["s"] <= limit for name, limit in LIMITS.items())
    notes = [f"- {said}: {'yes' if holds else 'NO'}." for said, holds in is_same.items()]
    notes += [
        f"- At most 1 GB in each step: {'kept' if is_within else 'MISSED'}. A report within "
        f"{LIMITS['report from Parquet']} s from Parquet, {LIMITS['report from JSON Lines']} s "
        f"from JSON Lines: {'kept' if is_quick else 'MISSED'}.",
        *former,
        *(f"- {form}: {size / 1e6:,.0f} MB on disk." for form, size in sizes.items()),
    ]
    parts = [
        f"{arguments.records:,} requests in {arguments.groups} groups, drawn from the model of "
        "acceptance, with tokens and texts.",
        markdown_table(["step", "seconds", "CPU seconds", "peak MiB"], rows),
        "\n".join(notes),
    ]
    publish(
        page("Records and reports of many requests", parts, load=load, packages=PACKAGES),
        arguments.output,
    )
    return int(not (is_within and is_quick and all(is_same.values())))


if __name__ == "__main__":
    raise SystemExit(main())
