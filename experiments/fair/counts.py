"""Counts of runs: taken from their records, published, and read again beside later runs."""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from comparison import COUNTS

from lm_eval_specfair.records import measured, read_records

Array = npt.NDArray[np.float64]

NAME = "counts.csv.gz"
HEADER = ("suite", "arm", "seed", "document", "language", *COUNTS)
DIGITS = 6
"""Significant digits of a published count."""

Counts = dict[str, dict[tuple[str, int], Array]]
"""By suite, then by arm and seed: shape (documents, languages, len(COUNTS))."""


def counts_of(records: Path, suite: str, languages: Sequence[str], documents: int) -> Array:
    """Counts of a run on a suite in these languages, shape (documents, languages, len(COUNTS))."""
    found = np.zeros((documents, len(languages), len(COUNTS)))
    for record in measured(read_records(records)):
        task, _, language = record.task.rpartition("_")
        is_wanted = task == suite and language in languages
        if is_wanted and record.request_type == "generate_until":
            found[record.doc_id, languages.index(language)] = [
                record.num_spec_steps,
                record.num_accepted_draft_tokens,
                record.overlap_sum or 0,  # None where nothing was drafted
                record.kl_sum or 0,
                record.num_distribution_positions or 0,
                record.num_generated_tokens,
                record.num_generated_bytes,
            ]
    return found


def write_counts(folder: Path, counts: Counts, languages: Sequence[str]) -> None:
    """Publish counts, a line for each document, language and run."""
    with gzip.open(folder / NAME, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for suite, runs in counts.items():
            for (arm, seed), each in runs.items():
                for document, place in np.ndindex(each.shape[:2]):
                    numbers = (_shown(x) for x in each[document, place])
                    writer.writerow([suite, arm, seed, document, languages[place], *numbers])


def read_counts(folder: Path, languages: Sequence[str]) -> Counts:
    """What was published.

    Raises:
        ValueError: If a language is none of these.
    """
    lines: dict[tuple[str, str, int], dict[tuple[int, int], list[float]]] = {}
    with gzip.open(folder / NAME, "rt", newline="") as file:
        for row in csv.DictReader(file):
            run = row["suite"], row["arm"], int(row["seed"])
            place = int(row["document"]), languages.index(row["language"])
            lines.setdefault(run, {})[place] = [float(row[name]) for name in COUNTS]
    found: Counts = {}
    for (suite, arm, seed), each in lines.items():
        documents = 1 + max(document for document, _ in each)
        counts = np.zeros((documents, len(languages), len(COUNTS)))
        for place, numbers in each.items():
            counts[place] = numbers
        found.setdefault(suite, {})[arm, seed] = counts
    return found


def refuse_others(here: Counts, there: Counts, arm: str) -> None:
    """Make sure that two sets of runs read and decoded the same: an arm's counts are the same.

    Args:
        here: Runs of today.
        there: Runs on record.
        arm: What needs no training, so that it must come out alike, but for the last digit that
            is published (sums depend on the number of threads).

    Raises:
        ValueError: If a suite is missing in one of them, or the arm's counts differ.
    """
    for suite in here.keys() | there.keys():
        ours, theirs = (
            [each for (name, _), each in runs.get(suite, {}).items() if name == arm]
            for runs in (here, there)
        )
        if not ours or not theirs:
            raise ValueError(f"{suite}: `{arm}` is needed on both sides to see that they agree")
        if not np.allclose(ours[0], theirs[0], rtol=10.0 ** (1 - DIGITS), atol=0):
            raise ValueError(
                f"{suite}: the counts of `{arm}` differ, so the texts or the decoding are others: "
                "these runs cannot be compared"
            )


def _shown(number: float) -> str:
    return f"{number:.{DIGITS}g}"
