"""Rows drawn so that groups have given shares of what is learnt."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.mixtures.text_rows import TextRow
from lm_eval_specfair.training.data.rows import epoch_order


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnRow:
    """One row of a data set."""

    place: int  # among the rows that it was drawn from
    group: str  # that it was drawn for
    epoch: int  # from 1; above 1, the row is in the data set more than once


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupDraw:
    """What was drawn for a group. Sizes are tokens, or rows where nothing is answered yet."""

    available: float  # in the group's rows
    asked: float  # its share of the data set
    drawn: float
    rows: int

    @property
    def epochs(self) -> float:
        """Passes over the group's rows: below 1 some are left out, above 1 some are repeated."""
        return self.drawn / self.available


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedDraw:
    """A data set: rows in the order of the file, and what each group has of it."""

    rows: Sequence[DrawnRow]
    groups: Mapping[str, GroupDraw]

    @property
    def size(self) -> float:
        return sum(one.drawn for one in self.groups.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSizes:
    """How large rows of training data are.

    Attributes:
        unit: `tokens` where a tokenizer counted them, `estimated tokens` where bytes were divided
            by the bytes per token that were measured, `bytes`, or `rows` where nothing is answered.
        sizes: Of each row, shape (num_rows,).
        by_group: Of the groups' rows; a row of several groups counts by its shares.
    """

    unit: str
    sizes: Array
    by_group: Mapping[str, float]


def sizes_of(
    rows: Sequence[TextRow],
    bytes_per_token: Mapping[str, float],
    encode: Callable[[str], Sequence[int]] | None = None,
) -> DataSizes:
    """Sizes of rows: the tokens that are learnt, by a tokenizer or from groups' bytes per token."""
    known = np.array([x for x in bytes_per_token.values() if np.isfinite(x) and x > 0])
    if not all(row.learnt_bytes for row in rows):
        unit, sizes = "rows", np.ones(len(rows))
    elif encode is not None:
        unit = "tokens"
        sizes = np.array([max(len(encode(row.learnt)), 1) for row in rows], dtype=float)
    elif len(known):
        unit, mean = "estimated tokens", float(known.mean())
        ratios = {
            name: x if np.isfinite(x) and x > 0 else mean for name, x in bytes_per_token.items()
        }
        sizes = np.array(
            [
                row.learnt_bytes
                / sum(share * ratios.get(group, mean) for group, share in row.membership)
                for row in rows
            ]
        )
    else:
        unit, sizes = "bytes", np.array([float(row.learnt_bytes) for row in rows])
    return DataSizes(unit=unit, sizes=sizes, by_group=available_sizes(rows, sizes))


def available_sizes(rows: Sequence[TextRow], sizes: Array) -> dict[str, float]:
    """Sizes of the groups' rows, by group; a row of several groups counts by its shares."""
    found: dict[str, float] = defaultdict(float)
    for row, size in zip(rows, sizes.tolist(), strict=True):
        for group, share in row.membership:
            found[group] += share * size
    return dict(sorted(found.items()))


def draw_rows(
    rows: Sequence[TextRow], sizes: Array, shares: Mapping[str, float], *, size: float, seed: int
) -> WeightedDraw:
    """Draw rows so that each group has its share of a size, as nearly as whole rows allow.

    A group's rows are drawn without replacement, in an order that seed and name decide; when they
    are used up, all over again. So a group's first rows are the same whatever its share. Rows of
    several groups are drawn for each, and count for the one that they were drawn for.

    Args:
        rows: What is drawn from.
        sizes: Of each, shape (num_rows,), above 0.
        shares: Of groups, adding up to 1; a group without rows has none.
        size: Of the data set.
        seed: Of all orders.
    """
    pools: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        for group, _ in row.membership:
            pools[group].append(place)
    drawn: list[DrawnRow] = []
    groups = {}
    for group, share in sorted(shares.items()):
        pool, asked = pools[group], share * size
        weights = np.array([sizes[place] * dict(rows[place].membership)[group] for place in pool])
        taken, count, epoch = 0.0, 0, 0
        is_full = asked <= 0
        while not is_full:
            epoch += 1
            for number in epoch_order(seed, group, epoch - 1, len(pool)).tolist():
                # A row that would leave the group further from its share than without it.
                if is_full := taken + weights[number] / 2 > asked:
                    break
                taken += float(weights[number])
                count += 1
                drawn.append(DrawnRow(place=pool[number], group=group, epoch=epoch))
        groups[group] = GroupDraw(
            available=float(weights.sum()), asked=asked, drawn=taken, rows=count
        )
    order = np.random.default_rng(seed).permutation(len(drawn)).tolist()
    return WeightedDraw(rows=[drawn[place] for place in order], groups=groups)
