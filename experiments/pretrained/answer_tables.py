"""The page of acceptance beside answers."""

from collections.abc import Callable, Sequence

import numpy as np
from cells import RATE, estimate, languages_of, shown, table
from claims import correlation
from run_values import QUALITY, Measured
from within import Document, shares, slope

from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.metrics.statistics.bootstrap import SEED
from lm_eval_specfair.metrics.statistics.rank_correlation import kendall


def answers_page(found: Sequence[Measured]) -> str:
    """Tables ordered by acceptance; what answers have to do with it, over and within languages."""
    scored = [one for one in found if one.is_scored]
    parts = []
    for target, data in dict.fromkeys((one.target, one.data) for one in scored):
        own = [one for one in scored if (one.target, one.data) == (target, data)]
        parts.append(f"## {target}, {data} ({QUALITY[data]})\n\n{ordered_table(own)}\n")
    header = ["target", "data", "drafter", "of", "languages", "Spearman", "95%", "p", "Kendall"]
    over = table(answer_rows(scored), [*header, "p"])
    body = "\n".join(parts)
    return f"""# Acceptance beside answers

Made by `experiments/pretrained/tables.py`; do not edit. Languages by the acceptance of the first
drafter of each table, the highest first; brackets are 95% over documents. *Empty*: texts that ended
before they said anything. *Cut off*: those that ended at the limit and not by themselves, so that
an answer may be missing its end.

{body}
## Over languages

Rank correlation with the mean score; p of permutations, each by itself.

{over}

## Within a language

Acceptance against the score of the same document, with a level for each language: the slope is the
change of acceptance with a whole point of the score. p of exchanges within languages, each by
itself.

{within_table(scored, lambda one: one.score)}
"""


def within_table(found: Sequence[Measured], other: Callable[[Document], float | None]) -> str:
    """Slopes of acceptance within languages."""
    rows = []
    for one in found:
        result = slope(one.documents, other)
        if result is not None:
            rows.append(
                [one.target, one.data, one.kind, str(result.num_languages),
                 str(result.num_documents), f"{result.value:.2f}",
                 f"{result.low:.2f} to {result.high:.2f}", f"{result.p_value:.3g}"]
            )  # fmt: skip
    header = ["target", "data", "drafter", "languages", "documents", "slope", "95%", "p"]
    return table(rows, header)


def ordered_table(found: Sequence[Measured]) -> str:
    """Languages of one data set with answers and each drafter's acceptance, by the first's."""
    drafters = sorted(found, key=lambda one: not one.kind.endswith("4bit"))
    rates = {
        name: one
        for name in languages_of(drafters)
        if (one := estimate(drafters[0], name, RATE)) is not None
    }
    cut_off = shares(drafters[0].documents, lambda one: one.is_cut_off)
    empty = shares(drafters[0].documents, lambda one: one.is_empty)
    rows = [
        [
            f"{name} ({languages()[name].resource_class})",
            shown(estimate(drafters[0], name, "answer_quality")),
            f"{empty.get(name, 0):.2f}",
            f"{cut_off.get(name, 0):.2f}",
            *(shown(estimate(one, name, RATE)) for one in drafters),
        ]
        for name in sorted(rates, key=lambda name: -rates[name].value)
    ]
    return table(
        rows, ["language (class)", "answers", "empty", "cut off", *(one.kind for one in drafters)]
    )


def answer_rows(found: Sequence[Measured]) -> list[list[str]]:
    """Mean scores against acceptance, and against what a pass yields, over languages."""
    rows = []
    for one in found:
        answers = one.values["answer_quality"]
        figures = [
            ("acceptance", one.values[RATE], 1),
            ("tokens a step", one.values["mean_acceptance_length"], 1),
            ("bytes a step", one.values["steps_per_kilobyte"], -1),
        ]
        for name, figure, sign in figures:
            shared = [group for group in figure.groups if group in answers.groups]
            if len(shared) < 4 or np.ptp(answers.of(shared).values) == 0:
                continue
            result = correlation(answers, figure, sign)
            assert result is not None
            value, low, high, p_value, number = result
            tau, tau_p = kendall(
                answers.of(shared).values,
                sign * figure.of(shared).values,
                np.random.default_rng(SEED),
            )
            rows.append(
                [one.target, one.data, one.kind, name, str(number), f"{value:.2f}",
                 f"{low:.2f} to {high:.2f}", f"{p_value:.3g}", f"{tau:.2f}", f"{tau_p:.3g}"]
            )  # fmt: skip
    return rows
