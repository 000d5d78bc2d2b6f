"""The page of whether the order of languages carries over."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from cells import RATE, table
from run_values import Measured
from shares import ALIKE, language_shares, noise_share

from lm_eval_specfair.metrics.order_stability import OrderStability, order_stability
from lm_eval_specfair.metrics.statistics.bootstrap import SEED


def stability_page(found: Sequence[Measured]) -> str:
    """Kendall's W over drafters, copies, data sets and targets."""
    rows: list[list[str]] = []

    def add(what: str, runs: Sequence[Measured], label: Callable[[Measured], str]) -> None:
        for metric in (RATE, "steps_per_kilobyte", "scored_agreement"):
            known = {
                label(one): one.values[metric] for one in runs if len(one.values[metric].groups)
            }
            result = order_stability(known, np.random.default_rng(SEED))
            if result is not None:
                rows.append([what, _NAMES[metric], *stability_cells(result)])

    targets = list(dict.fromkeys(one.target for one in found))
    for target in targets:
        own = [one for one in found if one.target == target and one.kind != "smollm2"]
        sets = list(dict.fromkeys(one.data for one in own))
        for data in sets:
            on_data = [one for one in own if one.data == data]
            add(f"{target}, {data}: all drafters", on_data, lambda one: one.kind)
            copies = [one for one in on_data if one.kind.endswith("bit")]
            add(f"{target}, {data}: copies", copies, lambda one: one.kind)
        for kind in dict.fromkeys(one.kind for one in own):
            same = [one for one in own if one.kind == kind and not one.data.endswith("sampled")]
            add(f"{target}, {kind}: data sets", same, lambda one: one.data)
            if len(same) > 2:
                for pair in itertools.combinations(same, 2):  # more languages in common
                    add(f"{target}, {kind}: two data sets", pair, lambda one: one.data)
            modes = [one for one in own if one.kind == kind and one.data.startswith("demo")]
            add(f"{target}, {kind}: greedy and sampled", modes, lambda one: one.data)
    for data in dict.fromkeys(one.data for one in found):
        for kind in ("prompt_lookup", "layers", "8bit", "4bit", "3bit", "ngram"):
            same = [one for one in found if one.data == data and one.kind.startswith(kind)]
            add(f"{data}, {kind}: targets", same, lambda one: one.target)
    header = ["repeated over", "order by", "of", "languages", "W", "95%", "p"]
    return f"""# Does the order of languages carry over?

Made by `experiments/pretrained/tables.py`; do not edit. Kendall's W of the orders: 1 for one
order, about 1 / number of orders for unrelated ones. Intervals over documents lean to low values
(noise moves languages past each other); p is of permutations, for each row by itself.

{table(rows, header)}

## To what the spread belongs

Of the squared differences between languages within a run, in acceptance: what all runs have alike,
what goes with a target, a drafter or a data set, and what a single run has for itself. *Noise* is
what the choice of documents makes alone; it is in all the shares, mostly in the last.

{shares_table(found)}
"""


def shares_table(found: Sequence[Measured]) -> str:
    """Of the drafters that all runs have; all data sets together, then fewer."""
    own = [one for one in found if len(one.values[RATE].groups) and one.kind != "smollm2"]
    greedy = [one for one in own if not one.data.endswith("sampled")]
    sets = list(dict.fromkeys(one.data for one in greedy))
    rows: list[list[str]] = []
    several = [
        chosen
        for number in range(len(sets), 0, -1)
        for chosen in itertools.combinations(sets, number)
    ]
    for chosen in several:
        runs = {
            (one.target, one.kind, one.data): one.values[RATE]
            for one in greedy
            if one.data in chosen
        }
        targets = list(dict.fromkeys(target for target, _, _ in runs))
        kinds = [
            kind
            for kind in dict.fromkeys(kind for _, kind, _ in runs)
            if all((target, kind, data) in runs for target in targets for data in chosen)
        ]
        if len(targets) < 2 or len(kinds) < 2:
            continue
        keys = list(itertools.product(targets, kinds, chosen))
        common = set.intersection(*(set(runs[key].groups) for key in keys))
        names = [name for name in runs[keys[0]].groups if name in common]
        shape = (len(targets), len(kinds), len(chosen))
        values = np.stack([runs[key].of(names).values for key in keys]).reshape(*shape, -1)
        drawn = np.stack([runs[key].of(names).replicates for key in keys], axis=1)
        drawn = drawn.reshape(len(drawn), *shape, len(names))
        factors = ("target", "drafter", "data set")
        shares = language_shares(values, factors)
        resampled = language_shares(drawn, factors)
        noise = f"{noise_share(values, drawn):.2f}"
        for name, share in shares.items():
            low, high = np.quantile(resampled[name], [0.025, 0.975])
            cells = [", ".join(chosen), ", ".join(kinds), str(len(names)), noise]
            rows.append([*(cells if name == ALIKE else [""] * 4), name,
                         f"{share:.2f} [{low:.2f}, {high:.2f}]"])  # fmt: skip
    return table(rows, ["data sets", "drafters", "languages", "noise", "differing", "share"])


_NAMES = {
    RATE: "acceptance",
    "steps_per_kilobyte": "bytes a step",
    "scored_agreement": "agreement on references",
}


def stability_cells(found: OrderStability) -> list[str]:
    return [
        ", ".join(found.names),
        str(len(found.groups)),
        f"{found.w:.2f}",
        f"{found.low:.2f} to {found.high:.2f}",
        f"{found.p_value:.3g}",
    ]
