"""Fitted drafters decoded for real, a text at a time, each text plainly too: measured speed-ups.

    python experiments/fitted/decoded.py --work build/decoded -o results/fitted_drafters/decoded
    python experiments/fitted/decoded.py --work build/decoded -o results/fitted_drafters/decoded \
        --declaration DECLARATION.jsonl     # another domain too: lines with lang, article and text

What `cross_fit.py` expects of replays, measured: stores are fitted on half of the documents of
`results/demo_batch_1`, and the demo suite's other half is decoded with them, and the other way
round. Every request is decoded without a drafter besides, in turns, so that speed-ups are of the
same minutes of the same machine. On the Declaration, whose articles the target continues, stores
are fitted on all of the run's documents. A finished run is not made again; one that was killed is
resumed.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np

sys.path += [str(Path(__file__).parents[1] / name) for name in ("pretrained", "fair")]
from comparison import change_cell
from cross_fit import HALVES, SOURCE, merged
from data_sets import DataSet, write_tasks
from run import call, is_finished
from tabulate import tabulate

import lm_eval_specfair as sf
from lm_eval_specfair.fitting.fit_run import fit
from lm_eval_specfair.metrics.order_stability import resampled_values
from lm_eval_specfair.metrics.statistics.intervals import percentile_interval
from lm_eval_specfair.records import read_run
from lm_eval_specfair.reporting.runs import count_runs

# What `drafter=` takes; {store} is the store that was fitted on other documents.
ARMS = {
    "prompt_lookup": "prompt_lookup",
    "embedded": "embedded",
    "embedded-fair": "embedded-fair",
    "answers": "{store}",
    "answers+embedded-fair": "{store}+embedded-fair",
}
REFERENCES = ("embedded-fair", "prompt_lookup")  # the best single model; what costs nothing too
DOCUMENTS, TOKENS = 20, 32
PARITY = {"even": 0, "odd": 1}
SPEEDUP, LENGTH = "measured_speedup", "mean_acceptance_length"


def decode(drafter: str, folder: Path, tasks: list[str], *more: str) -> Path:
    """One run at batch 1, each request plainly too."""
    if not is_finished(folder):
        settings = f"drafter={drafter},baseline=all,records_dir={folder}"
        settings += ",resume=true" if folder.exists() else ""
        words = ["run", "--tasks", ",".join(tasks), "--batch_size", "1", *more]
        call(*words, "--model_args", settings)
    return folder


def store_of(documents: str, work: Path) -> Path:
    store = work / "stores" / documents
    if not store.exists():
        fit([SOURCE], store, kind="lookup", documents=documents)
    return store


def demo(arm: str, languages: list[str], work: Path) -> Path:
    """The demo suite, each half with what was fitted on the other, as one run."""
    tasks = [f"specfair_demo_{language}" for language in languages]
    parts = []
    for learnt, measured in HALVES.items():
        places = list(range(PARITY[measured], DOCUMENTS, 2))
        drafter = ARMS[arm].format(store=store_of(learnt, work))
        chosen = json.dumps(dict.fromkeys(tasks, places))
        parts.append(decode(drafter, work / "demo" / measured / arm, tasks, "--samples", chosen))
    return merged(parts, arm, None, work / "demo" / "whole" / arm)


def declaration(arm: str, languages: list[str], file: Path, work: Path) -> Path:
    """The Declaration's articles, continued."""
    name = "fitted_declaration"
    data_set = DataSet(task=name, languages=languages, tokens=TOKENS, own=True)
    tasks = work / "tasks"
    write_tasks(data_set, file, tasks)
    drafter = ARMS[arm].format(store=store_of("all", work))
    more = ["--include_path", str(tasks), "--gen_kwargs", f"max_gen_toks={TOKENS}"]
    # lm-eval runs tasks without a score for their samples alone.
    more += ["--limit", str(DOCUMENTS), "--log_samples", "--output_path", str(work / "samples")]
    names = [f"{name}_{language}" for language in languages]
    return decode(drafter, work / "declaration" / arm, names, *more)


def speeds_table(runs: dict[str, Path]) -> str:
    """Measured speed-ups of each drafter, with the languages that are clearly not plain speed."""
    rows = []
    for arm, folder in runs.items():
        report = sf.report(folder, min_requests=2)
        speeds, lengths = report.by_group[SPEEDUP], report.by_group[LENGTH]
        low, high = (report.intervals[SPEEDUP, end] for end in ("low", "high"))
        worst = speeds.idxmin()
        rows.append(
            [
                arm,
                f"{lengths.mean():.2f}",
                f"{speeds.mean():.2f}",
                f"{worst} {speeds[worst]:.2f} [{low[worst]:.2f}, {high[worst]:.2f}]",
                f"{speeds['en']:.2f} [{low['en']:.2f}, {high['en']:.2f}]",
                str((low > 1).sum()),
                ", ".join(sorted(high[high < 1].index)) or "none",
            ]
        )
    header = ["drafter", "tokens a step, mean", "speed-up, mean", "slowest language", "English"]
    header += ["languages clearly faster than plain", "clearly slower"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def changes_table(runs: dict[str, Path]) -> str:
    """What each drafter changes against a reference in measured speed-up, over all documents."""
    found = {
        arm: resampled_values(count_runs([folder], "language", min_requests=2), [SPEEDUP])[SPEEDUP]
        for arm, folder in runs.items()
    }
    rows = []
    for reference in REFERENCES:
        for arm, own in found.items():
            if arm == reference or reference not in found:
                continue
            other = found[reference].of(own.groups)
            english = list(own.groups).index("en")
            figures = {
                "mean of languages": functools.partial(np.mean, axis=-1),
                "worst language": functools.partial(np.min, axis=-1),
                "English": functools.partial(np.take, indices=english, axis=-1),
            }
            cells = []
            for figure in figures.values():
                drawn = figure(own.replicates) / figure(other.replicates) - 1
                low, high = percentile_interval(drawn, DOCUMENTS) or (None, None)
                change = float(figure(own.values) / figure(other.values)) - 1
                cells.append(change_cell({"value": change, "low": low, "high": high}))
            rows.append([arm, reference, *cells])
    header = ["drafter", "against", "mean of languages", "worst language", "English"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--declaration", type=Path, help="JSON Lines with lang, article and text")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    languages = sorted(task.removeprefix("specfair_demo_") for task in read_run(SOURCE)["tasks"])
    suites = {"demo": {arm: demo(arm, languages, args.work) for arm in args.arms}}
    if args.declaration is not None:
        file = args.declaration
        suites["declaration"] = {
            arm: declaration(arm, languages, file, args.work) for arm in args.arms
        }
    for suite, runs in suites.items():
        parts = [f"# {suite}, decoded at batch 1", speeds_table(runs)]
        parts += ["Changes in measured speed-up:", changes_table(runs)]
        text = "\n\n".join(parts) + "\n"
        (args.output / f"{suite}.md").write_text(text, encoding="utf-8")
        print(text)
        others = [folder for arm, folder in runs.items() if arm != REFERENCES[0]]
        compared = sf.compare(runs[REFERENCES[0]], *others, metric=SPEEDUP, min_requests=2)
        (args.output / f"{suite}_compared.md").write_text(compared.render("md"), encoding="utf-8")


if __name__ == "__main__":
    main()
