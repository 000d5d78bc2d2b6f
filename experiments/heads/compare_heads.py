"""Heads and a small model from new weights, at one budget: who gets the speed-up?

    python experiments/embedded_pair/corpus.py --work build/pair     # texts, split by file
    python experiments/heads/compare_heads.py --corpus build/pair/corpus --work build/heads \
        -o results/heads

For the embedded target: EAGLE-3 heads that draft among a part of its tokens, with the data as they
are (`mix`), languages alike (`balanced`) and drawn by how badly they are served (`s-cdf`), with and
without a floor under each language's coverage, beside a drafting model of the embedded drafter's
shape. All start from new weights and read as many tokens. Each is decoded on the demo suite,
greedily; what the seeds of an arm come to is set against `head-mix`, with intervals over documents
and seeds. A finished arm is not made again; one that was killed is resumed. With --elsewhere, a run
of the target on another domain (experiments/fitted/decoded.py leaves one for the Declaration), its
texts are replayed with each arm too.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import lm_eval_specfair as sf
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTERS
from lm_eval_specfair.records import read_records

sys.path.insert(0, str(Path(__file__).parents[1] / "fair"))
from comparison import Comparison, change_cell, tokens_a_step
from counts import Array, Counts, counts_of, write_counts
from texts import languages_of, write_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
from run import is_finished

STAGES = ("train", "decode", "replay")
SUITE, REFERENCE = "specfair_demo", "head-mix"
FIGURES = {
    "mean_speedup": "tokens a step, mean of languages",
    "worst_speedup": "worst language",
    "dominant_speedup": "English",
    "worst_bytes": "fewest bytes a step",
    "ratio_speedup": "worst over best",
}
"""No KL: it is infinite where a head's vocabulary lacks a token of the target's."""
PRUNED, FLOOR = "2000", "0.84"
HEAD = ["--kind", "eagle3", "--draft-vocabulary", PRUNED, "--unrolled-steps", "3"]
COVERED = [*HEAD, "--coverage-floor", FLOOR]
ARMS = {
    "head-mix": [*HEAD, "--weighting", "mix"],
    "head-s-cdf-covered": [*COVERED, "--weighting", "s-cdf"],
    "model-mix": ["--drafter", "NEW", "--weighting", "mix"],
    "head-balanced": [*HEAD, "--weighting", "balanced:apply=sampling"],
    "head-mix-covered": [*COVERED, "--weighting", "mix"],
    "head-s-cdf": [*HEAD, "--weighting", "s-cdf"],
}


def specfair(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lm_eval_specfair", *words], check=True)


def new_model(folder: Path) -> Path:
    """A model of the embedded drafter's shape with new weights."""
    source = EMBEDDED_DRAFTERS["embedded"]
    if not folder.exists():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def train(arm: str, seed: int, args: argparse.Namespace) -> Path:
    out = args.work / f"seed-{seed}" / arm
    if (out / "train_results.json").exists():
        return out
    model = str(new_model(args.work / "new-model"))
    words = [model if word == "NEW" else word for word in ARMS[arm]]
    texts = str(args.work / "texts.jsonl")
    shared = ["--data", texts, "--tokens", str(args.tokens), "--seed", str(seed)]
    shared += ["--rows", "32", "--length", "64", "--learning-rate", "2e-3", "--probe-rows", "4"]
    shared += ["--num-probes", "2", *(["--resume"] if out.exists() else [])]
    specfair("train", *shared, *words, "-o", str(out))
    return out


def decode(drafter: Path, languages: list[str], args: argparse.Namespace) -> Path:
    records = drafter.parent / "runs" / drafter.name
    if is_finished(records):
        return records
    tasks = ",".join(f"{SUITE}_{code}" for code in languages)
    settings = f"drafter={drafter},records_dir={records},baseline=0"
    settings += ",resume=true" if records.exists() else ""
    words = ["run", "--tasks", tasks, "--batch_size", "8", "--limit", str(args.limit)]
    specfair(*words, "--model_args", settings)
    return records


def replayed(drafters: list[Path], texts: Path) -> dict[str, Path]:
    """Replays of another run's texts with all arms of a seed, by arm."""
    out = drafters[0].parent / "elsewhere"
    missing = [one for one in drafters if not is_finished(out / one.name)]
    if missing:
        named = [word for one in missing for word in ("--drafter", str(one))]
        where = out / missing[0].name if len(missing) == 1 else out
        specfair("replay", str(texts), *named, "--target", "embedded", "-o", str(where))
    return {one.name: out / one.name for one in drafters}


def row(seed: int, records: Path, drafter: Path) -> dict[str, object]:
    report = sf.report(records)
    lengths = report.by_group["mean_acceptance_length"]
    kept = json.loads((drafter / "train_results.json").read_text())
    coverage = (kept.get("head") or {}).get("coverage") or {}
    return {
        "arm": drafter.name,
        "seed": seed,
        "mean": lengths.mean(),
        "worst": lengths.min(),
        "worst language": lengths.idxmin(),
        "English": lengths.get("en"),
        "least coverage": min(coverage.values(), default=None),
        "cost of drafting": kept["cost_ratio"],
        "kept step": f"{kept['kept_step']} of {kept['num_steps']}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=61_440)
    parser.add_argument("--share", type=float, default=0.1, help="of the corpus's files")
    parser.add_argument("--limit", type=int, default=20, help="documents a language")
    parser.add_argument("--languages", nargs="+", help="of the corpus's (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--elsewhere", type=Path, help="a run on another domain, replayed")
    parser.add_argument("-o", "--output", type=Path, help="where tables and counts go")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    languages = args.languages or languages_of(args.corpus)
    if not (args.work / "texts.jsonl").exists():
        write_texts(args.corpus, languages, args.share, args.work / "texts.jsonl")
    rows, counts = [], Counts({SUITE: {}})
    for seed, arm in itertools.product(args.seeds, args.arms):
        drafter = args.work / f"seed-{seed}" / arm
        if "train" in args.stages:
            train(arm, seed, args)
        if "decode" not in args.stages:
            continue
        records = decode(drafter, languages, args)
        rows.append(row(seed, records, drafter))
        counts[SUITE][arm, seed] = counts_of(records, SUITE, languages, args.limit)
        print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f"), flush=True)
    other = None
    if args.elsewhere is not None and "replay" in args.stages:
        known = [record for record in read_records(args.elsewhere) if record.generated_token_ids]
        other = known[0].task.rpartition("_")[0]
        documents = 1 + max(record.doc_id for record in known)
        counts[other] = {
            (arm, seed): counts_of(records, other, languages, documents)
            for seed in args.seeds
            for arm, records in replayed(
                [args.work / f"seed-{seed}" / arm for arm in args.arms], args.elsewhere
            ).items()
        }
    if args.output is not None and rows:
        args.output.mkdir(parents=True, exist_ok=True)
        each = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f")
        parts = [table(counts[SUITE], languages, args), "Each seed:", each]
        if other is not None:
            parts += [f"## {other}, replayed", table(counts[other], languages, args)]
        (args.output / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        write_counts(args.output, counts, languages)


def table(
    counts: dict[tuple[str, int], Array], languages: list[str], args: argparse.Namespace
) -> str:
    """Figures of each arm over its seeds, changes against `head-mix`, and tokens a step."""
    of_arm = {arm: np.stack([counts[arm, seed] for seed in args.seeds]) for arm in args.arms}
    comparison = Comparison(of_arm, languages, 1.0, "en")
    figures, changes, lengths = [], [], []
    for arm, each in of_arm.items():
        found, drawn = comparison.of(arm)
        low_high = {name: np.quantile(drawn[name], [0.025, 0.975]) for name in FIGURES}
        cells = (
            f"{found[name]:.3f} [{low:.3f}, {high:.3f}]" for name, (low, high) in low_high.items()
        )
        figures.append([arm, *cells])
        if arm != REFERENCE:
            against = (comparison.change(arm, REFERENCE, name) for name in FIGURES)
            changes.append([arm, *map(change_cell, against)])
        lengths.append([arm, *(f"{value:.2f}" for value in tokens_a_step(each))])
    header = ["arm", *FIGURES.values()]
    return "\n\n".join(
        tabulate(rows, names, tablefmt="github", disable_numparse=True)
        for rows, names in (
            (figures, header),
            (changes, [f"change against {REFERENCE}", *header[1:]]),
            (lengths, ["tokens a step", *languages]),
        )
    )


if __name__ == "__main__":
    main()
