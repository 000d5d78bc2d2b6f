"""What a fit says of itself: a table of its drafters, and sentences."""

from lm_eval_specfair.fitting.fit_run import Fit
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.reporting.tables import Cell, Table, row_of


def fit_table(fit: Fit) -> str:
    """A row for each drafter, for a terminal."""
    rows = []
    for each in fit.drafters:
        about = each.about
        group = "all" if about.group is None else display_name(about.group, about.group_by or "")
        cells = [
            Cell(f"{about.num_texts:,}", about.num_texts),
            Cell(f"{about.num_tokens:,}", about.num_tokens),
        ]
        if about.kind == "ngram":
            longest = each.num_ngrams[-1]
            cells.append(Cell(f"{longest:,}", longest))
        rows.append(row_of(group, *cells, str(each.folder)))
    about = fit.drafters[0].about
    longest_named = [f"{about.order}-grams"] if about.kind == "ngram" else []
    table = Table(
        title="Fitted drafters",
        header=["group", "texts", "tokens", *longest_named, "drafter"],
        sections=[rows],
    )
    return table.terminal()


def fit_notes(fit: Fit) -> list[str]:
    """What a user must know to use the drafters, in whole sentences."""
    about = fit.drafters[0].about
    reading, fitting = fit.seconds
    of = "" if about.documents == "all" else f" of documents {about.documents}"
    notes = [
        f"{about.num_texts:,} texts{of} were read in {reading:.1f} s and fitted in {fitting:.1f} s."
    ]
    if about.documents == "all":
        notes.append(
            "Measure on other texts than these: what was learnt is drafted better than anything "
            "new. --documents even leaves the odd ones to measure on (specfair replay --documents "
            "odd)."
        )
    if about.tokenizer is None:
        notes.append(
            "The texts' tokenizer is not known (--tokenizer names it): that a target has it cannot "
            "be checked when the drafter is used."
        )
    name = fit.drafters[0].folder if fit.policy is None else fit.policy
    notes.append(f"A run takes it as drafter={name}.")
    return notes
