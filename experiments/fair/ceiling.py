"""What a language gains if the whole budget is spent on it: the most that a weighting could give.

    python experiments/embedded_pair/corpus.py --work build/pair
    python experiments/fair/fair_drafters.py --corpus build/pair/corpus --work build/fair \
        --stage prepare --tokens 276480 --prompts 16
    python experiments/fair/ceiling.py --work build/fair --languages uk id \
        --tokens 276480 --prompts 16

No weighting can spend more than everything on the worst-served language. So a drafter is trained on
one language's texts alone (and a few of English, since one group has no spread to weigh), from the
same start, with the settings and the budget of the other arms, and decodes that language's
documents of the demo suite, the ones that `fair_drafters.py` decoded with `mix`. What it gains over
`mix` there, in tokens a step, is written to `ceiling.md`; a step costs the same for both. Intervals
hold the choice of documents and of seeds. Runs that are there are not made again.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from comparison import COUNTS
from counts import Counts, read_counts
from runs import decode, train
from tabulate import tabulate

from lm_eval_specfair.metrics.statistics.intervals import percentile_interval
from lm_eval_specfair.records import measured, read_records

SUITE, REFERENCE, BESIDE = "specfair_demo", "mix", "en"
NUM_BESIDE, NUM_RESAMPLES = 40, 2_000


def write_texts(args: argparse.Namespace, language: str, folder: Path) -> None:
    """The language's own training texts, and a few beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, beside = [], 0
    for line in (args.work / "texts.jsonl").read_text(encoding="utf-8").splitlines():
        group = json.loads(line)["group"]
        beside += group == BESIDE
        if group == language or (group == BESIDE and beside <= NUM_BESIDE):
            kept.append(line)
    (folder / "texts.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


def counts_here(records: Path, documents: int) -> np.ndarray:
    """Steps and accepted tokens by document, shape (documents, 2)."""
    found = np.zeros((documents, 2))
    for each in measured(read_records(records)):
        if each.request_type == "generate_until":
            found[each.doc_id] = each.num_spec_steps or 0, each.num_accepted_draft_tokens or 0
    return found


def counts_of_arm(published: Counts, arm: str, place: int) -> np.ndarray:
    """The same of an arm on record, shape (seeds, documents, 2)."""
    columns = [COUNTS.index(name) for name in ("steps", "accepted")]
    runs = published[SUITE].items()
    return np.stack([each[:, place, columns] for (name, _), each in runs if name == arm])


def gain(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Change of tokens a step, with its interval; arrays of shape (seeds, documents, 2)."""

    def tokens_a_step(counts: np.ndarray) -> np.ndarray:
        steps, accepted = np.moveaxis(counts, -1, 0)
        return 1 + accepted / steps

    generator, documents = np.random.default_rng(0), ours.shape[1]
    drawn = []
    for _ in range(NUM_RESAMPLES):
        which = generator.integers(0, documents, documents)
        ratio = [
            tokens_a_step(each[generator.integers(0, len(each), len(each))][:, which].sum((0, 1)))
            for each in (ours, theirs)
        ]
        drawn.append(ratio[0] / ratio[1] - 1)
    value = tokens_a_step(ours.sum((0, 1))) / tokens_a_step(theirs.sum((0, 1))) - 1
    interval = percentile_interval(np.array(drawn), documents)
    if interval is None:
        return f"{100 * value:+.1f}%"
    low, high = interval
    return f"{100 * value:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="as prepared by fair_drafters.py")
    parser.add_argument("--results", type=Path, default=Path("results/fair_drafters"))
    parser.add_argument("--languages", nargs="+", default=["uk", "id"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--probes", type=int, default=3)
    parser.add_argument("--probe-rows", type=int, default=8)
    args = parser.parse_args()
    args.work = args.work.resolve()
    languages = json.loads((args.work / "prepared.json").read_text())["languages"]
    published = read_counts(args.results, languages)
    rows = []
    for language in args.languages:
        folder = args.work / f"only-{language}"
        write_texts(args, language, folder)
        own = argparse.Namespace(**{**vars(args), "work": folder})
        found = []
        for seed in args.seeds:
            name = f"{REFERENCE}-{seed}"
            if not train(name, REFERENCE, seed, own):
                return 1
            tasks = ("--tasks", f"{SUITE}_{language}")
            drafter = folder / name / "drafter"
            if not decode(folder, name, drafter, seed, args.prompts, *tasks):
                return 1
            found.append(counts_here(folder / name / "records", args.prompts))
        ours = np.stack(found)
        against = [
            gain(ours, counts_of_arm(published, arm, languages.index(language)))
            for arm in ("start", REFERENCE)
        ]
        rows.append([language, len(found), *against])
    header = ("language", "seeds", "against the start", "against `mix`")
    text = tabulate(rows, header, tablefmt="github") + "\n"
    (args.results / "ceiling.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
