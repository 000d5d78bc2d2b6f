"""Cluster bootstrap and jackknife of sums by document.

The documents of a run are a sample of the texts that a language, or a domain, could have given;
requests of one document are not independent of each other, so documents are what is drawn. Metrics
are functions of sums (`metrics.definitions.metric`), so a resample is a matrix product.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.metrics.definitions.metric import Metric

NUM_RESAMPLES = 2_000
SEED = 20_251_002

# Numbers drawn at once: bounds memory for runs of many documents.
_CHUNK = 4_000_000
# Values with some documents of other groups left out: more would only cost time.
_MAX_LEFT_OUT = 5_000


@dataclass(frozen=True, slots=True)
class _Block:
    """Sums of each document of groups that are drawn together: every different column once.

    Many sums are the same, or nothing; resampling each once saves most of the work.
    """

    rows: Array  # (num_distinct, num_documents)
    places: NDArray[np.intp]  # of each group's columns among them, (num_groups, num_columns)

    @classmethod
    def of(cls, block: Array) -> "_Block":
        """The same as an array, shape (num_documents, num_groups, num_columns)."""
        columns = np.ascontiguousarray(block.reshape(len(block), -1).T)
        seen: dict[bytes, int] = {}
        firsts: list[int] = []
        places = np.empty(len(columns), dtype=np.intp)
        for number, column in enumerate(columns):
            place = seen.setdefault(column.tobytes(), len(firsts))
            if place == len(firsts):
                firsts.append(number)
            places[number] = place
        return cls(columns[firsts], places.reshape(block.shape[1:]))

    def __len__(self) -> int:
        return self.rows.shape[1]

    def group(self, number: int) -> Sums:
        """One group's, (num_documents, num_columns)."""
        return Sums(self.rows.T, self.places[number])

    @property
    def pooled(self) -> Sums:
        """Of all groups together, (num_documents, num_columns)."""
        if len(self.places) == 1:
            return self.group(0)
        return Sums(np.sum([self.rows[own] for own in self.places], axis=0).T)


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Sums of a run as it was, resampled, and with one document left out.

    Groups are numbered through all `blocks` of groups that are drawn together.
    """

    blocks: Sequence[_Block]
    observed: Array  # (num_groups, num_columns)
    of_groups: Sequence[Sums]  # of each group, (num_resamples, num_columns)
    run_replicates: Array  # all groups pooled, (num_resamples, num_columns)

    @property
    def replicates(self) -> Array:
        """The resampled sums in one array, shape (num_resamples, num_groups, num_columns)."""
        return np.stack([one.table for one in self.of_groups], axis=1)

    def values(self, metric: Metric, group: int | None) -> tuple[float, Array]:
        """A metric of one group, or of all pooled, as observed, and resampled: (num_resamples,)."""
        run = self.observed.sum(0)
        one = run if group is None else self.observed[group]
        all_groups = Sums(self.run_replicates)
        many = all_groups if group is None else self.of_groups[group]
        value = float(metric.evaluate(Sums(one), Sums(run)))
        return value, metric.evaluate(many, all_groups)

    def left_out(self, metric: Metric, group: int | None) -> dict[int, Array]:
        """A metric without one document, by block, arrays of shape (num_documents,).

        Documents of a block that is not there don't matter. On other groups' documents it depends
        through the run's costs alone; of these, several are left out at once where there are very
        many.
        """
        if group is None:
            return {
                number: metric.evaluate(runs, runs)
                for number, runs in enumerate(self._runs_without)
            }
        number, column = self._place(group)
        ones = _without(self.blocks[number].group(column), self.observed[group])
        own = metric.evaluate(ones, self._runs_without[number])
        if not metric.uses_run:
            return {number: own}
        runs, ends = self._runs_without_several
        values = metric.evaluate(Sums(self.observed[group]), runs)
        parts = np.split(np.broadcast_to(values, (len(runs.values),)), ends)
        return {**dict(enumerate(parts)), number: own}

    def _place(self, group: int) -> tuple[int, int]:
        """The block that a group is in, and its column there."""
        for number, block in enumerate(self.blocks):
            if group < len(block.places):
                return number, group
            group -= len(block.places)
        raise IndexError("no such group")

    @cached_property
    def _runs_without(self) -> list["_SumsWithout"]:
        run = self.observed.sum(0)
        return [_without(block.pooled, run) for block in self.blocks]

    @cached_property
    def _runs_without_several(self) -> tuple["_SumsWithout", NDArray[np.intp]]:
        """All blocks' in one array, and where each block but the last ends."""
        run, most = self.observed.sum(0), max(20, _MAX_LEFT_OUT // len(self.blocks))
        parts = [
            np.add.reduceat(block.pooled.table, starts(len(block), most), axis=0)
            for block in self.blocks
        ]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return _SumsWithout(values=np.concatenate(parts), total=run), ends

    def num_requests(self, metric: Metric, group: int | None) -> int:
        """Requests that the metric counts."""
        sums = self.observed.sum(0) if group is None else self.observed[group]
        return int(Sums(sums)[metric.requests])

    def num_units(self, group: int) -> int:
        """Units of documents, each drawn whole, with at least one request of a group."""
        number, column = self._place(group)
        return int((self.blocks[number].group(column)["requests"] > 0).sum())

    def num_documents(self, metric: Metric, group: int | None) -> int:
        """Documents with at least one request that the metric counts."""
        if group is None:
            counted = (block.pooled[metric.requests] > 0 for block in self.blocks)
            return sum(int(block.sum()) for block in counted)
        number, column = self._place(group)
        return int((self.blocks[number].group(column)[metric.requests] > 0).sum())


def starts(length: int, most: int) -> NDArray[np.intp]:
    """Where parts of about equal length begin, at most this many."""
    parts = min(length, most)
    return np.arange(parts) * length // parts


def _without(sums: Sums, total: Array) -> "_SumsWithout":
    return _SumsWithout(values=sums.values, places=sums.places, total=total)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SumsWithout(Sums):
    """A total without one document each, computed where a metric asks for a column."""

    total: Array  # (num_columns,)

    def _columns(self, numbers: int | slice) -> Array:
        with np.errstate(invalid="ignore"):  # an infinite divergence, which is not reported
            rest: Array = self.total[numbers] - Sums._columns(self, numbers)
        return rest


def resample(
    blocks: Iterable[Array],
    generator: np.random.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
) -> Resampled:
    """Draw documents with replacement, as many as there are, in each block on its own.

    Groups of one block, of shape (num_documents, num_groups, num_columns), lose and gain the same
    documents together: translations of one document share its difficulty, and drawing them together
    keeps that out of the differences between groups. Blocks keep their sizes, as the choice of
    groups was not random.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (several samples);
        Field and Welsh 2007, Bootstrapping clustered data, JRSS B 69(3) (clusters are drawn whole).
    """
    of_groups: list[Sums] = []
    parts: list[_Block] = []
    observed: list[Array] = []
    pooled: Array | float = 0.0
    for array in blocks:
        block = _Block.of(array)
        parts.append(block)
        observed.append(array.sum(0))
        num_documents, rows = len(block), block.rows
        # Resamples last in memory: metrics read one column.
        drawn = np.empty((len(rows), num_resamples))
        at_once = max(1, min(num_resamples, _CHUNK // max(num_documents, 1)))
        for start in range(0, num_resamples, at_once):
            end = min(start + at_once, num_resamples)
            picked = generator.integers(num_documents, size=(end - start, num_documents))
            picked += np.arange(end - start)[:, None] * num_documents
            times = np.bincount(picked.ravel(), minlength=(end - start) * num_documents)
            with np.errstate(invalid="ignore"):  # 0 times an infinite divergence
                drawn[:, start:end] = rows @ times.reshape(end - start, num_documents).T.astype(
                    float
                )
        for own in block.places:
            of_groups.append(Sums(drawn.T, own))
            pooled = pooled + drawn[own]
    return Resampled(
        blocks=parts,
        observed=np.concatenate(observed),
        of_groups=of_groups,
        run_replicates=np.asarray(pooled).T,
    )
