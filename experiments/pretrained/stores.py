"""A store of the target's earlier answers against prompt lookup: neither costs anything to draft.

    python experiments/pretrained/run.py ... decode replay answers elsewhere
    python experiments/pretrained/stores.py --work work -o results/pretrained/stores.md

Of each target and data set: tokens a step by language with both, and what the store changes, with
95% intervals over documents; each half of the documents is drafted for by what the target said of
the other half (`run.py answers`). On data sets but the demo, a store of all of the demo's texts is
another domain's (`run.py elsewhere`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "fair"))
from cells import table
from comparison import Array, Comparison, change_cell, tokens_a_step
from counts import counts_of
from data_sets import DATA_SETS
from run import DRAFTERS, is_finished

LOOKUP, STORE, ELSEWHERE = "prompt lookup", "store", "store of the demo's texts"
FIGURES = {
    "mean_speedup": "mean of languages",
    "worst_speedup": "worst language",
    "dominant_speedup": "English",
    "worst_bytes": "fewest bytes a step",
}


def counts(work: Path, target: str, name: str) -> dict[str, Array]:
    """Counts of both drafters, shape (1, documents, languages, len(COUNTS)); {} if unfinished."""
    folder, data_set = work / target / name, DATA_SETS[name]
    folders = {
        LOOKUP: [folder / "replays" / "prompt_lookup"],
        STORE: [folder / "answers" / half for half in ("even", "odd")],
        ELSEWHERE: [folder / "elsewhere"],
    }
    done = {arm: each for arm, each in folders.items() if all(is_finished(one) for one in each)}
    if not {LOOKUP, STORE} <= set(done):
        return {}
    return {
        arm: np.sum(
            [counts_of(one, data_set.task, data_set.languages, data_set.documents) for one in each],
            axis=0,
        )[None]
        for arm, each in done.items()
    }


def section(title: str, found: dict[str, Array], languages: Sequence[str]) -> str:
    comparison = Comparison(found, list(languages), 1.0, "en")
    lengths = {arm: tokens_a_step(each) for arm, each in found.items()}
    rows = [
        [arm, *(change_cell(comparison.change(arm, LOOKUP, name)) for name in FIGURES)]
        for arm in found
        if arm != LOOKUP
    ]
    order = np.argsort(lengths[LOOKUP])
    by_language = [
        [arm, f"{own.mean():.2f}", *(f"{own[place]:.2f}" for place in order)]
        for arm, own in lengths.items()
    ]
    return "\n\n".join(
        (
            f"## {title}",
            table(rows, [f"against {LOOKUP}", *FIGURES.values()]),
            table(by_language, ["tokens a step", "mean", *(languages[place] for place in order)]),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    sections = []
    for target in DRAFTERS:
        for name, data_set in DATA_SETS.items():
            if found := counts(args.work, target, name):
                title = f"{target}, {name}: {data_set.documents} documents a language"
                sections.append(section(title, found, data_set.languages))
    if not sections:
        sys.exit(f"{args.work} holds no finished replay of both drafters: run.py makes them")
    title = "# Stores of earlier answers"
    made_by = "Made by `experiments/pretrained/stores.py`; do not edit."
    text = "\n\n".join((title, made_by, *sections)) + "\n"
    args.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
