"""Adds up records by group and document, so that a run need not fit into memory."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_specfair.metrics import groups as grouping
from lm_eval_specfair.metrics.mapping import Mapped
from lm_eval_specfair.metrics.sums import COLUMNS, Array, Sums, addends
from lm_eval_specfair.records import Record, Settings

_Document = tuple[str, int]  # task and number


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a report rests on, all groups together.

    Attributes:
        requests: Requests.
        documents: Documents that they belong to.
        generated_tokens: Tokens emitted.
        generated_bytes: UTF-8 bytes of the generated text.
        spec_steps: Draft-and-verify steps.
        paired_requests: Requests that were also decoded plainly.
        agreeing_baselines: Greedy ones among them whose tokens equal the plain ones.
        differing_baselines: Greedy ones among them whose tokens differ.
        infinite_requests: Requests with an infinite KL divergence (top-k, top-p).
    """

    requests: int = 0
    documents: int = 0
    generated_tokens: int = 0
    generated_bytes: int = 0
    spec_steps: int = 0
    paired_requests: int = 0
    agreeing_baselines: int = 0
    differing_baselines: int = 0
    infinite_requests: int = 0


class Tally:
    """Sums of the records that were added so far.

    Attributes:
        group_by: What makes a group.
        ungrouped: Requests without a group, by task.
        settings: Requests by the settings they were decoded with.
    """

    def __init__(self, group_by: str, mapping: Mapped | None = None) -> None:
        """Start with nothing.

        Args:
            group_by: What makes a group (`metrics.groups.groups_of`).
            mapping: The user's own groups.
        """
        self.group_by = grouping.canonical_key(group_by)
        self._mapping = mapping or Mapped()
        self.ungrouped: Counter[str] = Counter()
        self.settings: Counter[Settings] = Counter()
        self._rows: dict[str, dict[_Document, Array]] = defaultdict(dict)
        self._parallel_keys: dict[_Document, tuple[str, int]] = {}
        self._counted: Counter[str] = Counter()
        # What the groups' sums hold too much of: requests that are in several.
        self._excess: dict[_Document, Array] = {}

    def add(
        self,
        record: Record,
        task_metadata: Mapping[str, Any],
        task_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Count one request, in each of its groups."""
        groups = grouping.groups_of(
            record, self.group_by, task_metadata, task_config=task_config, mapping=self._mapping
        )
        document, row = (record.task, record.doc_id), addends(record)
        for group in groups:
            rows = self._rows[group]
            rows[document] = rows[document] + row if document in rows else row
        if len(groups) > 1:
            excess = row * (len(groups) - 1)
            self._excess[document] = self._excess.get(document, 0) + excess
        self._parallel_keys[document] = grouping.parallel_key(record, self.group_by)
        if groups == (grouping.NO_GROUP,):
            self.ungrouped[record.task] += 1
        if record.settings is not None:
            self.settings[record.settings] += 1
        self._counted.update(
            requests=1,
            generated_tokens=record.num_generated_tokens or 0,
            generated_bytes=record.num_generated_bytes or 0,
            spec_steps=record.num_spec_steps or 0,
            paired_requests=int(record.baseline_seconds is not None),
            agreeing_baselines=int(record.baseline_agrees is True),
            differing_baselines=int(record.baseline_agrees is False),
            infinite_requests=int(bool(record.num_infinite_positions)),
        )

    @property
    def counts(self) -> Counts:
        """What was counted, all groups together."""
        return Counts(documents=len(self._parallel_keys), **self._counted)

    @property
    def requests(self) -> dict[str, int]:
        """Requests of each group."""
        return {group: int(self.total(group)["requests"]) for group in self._rows}

    def total(self, group: str | None) -> Sums:
        """Sums of one group; None for all."""
        groups = list(self._rows) if group is None else [group]
        rows = [row for each in groups for row in self._rows[each].values()]
        if group is None:
            rows += [-excess for excess in self._excess.values()]
        return Sums(np.sum(rows, axis=0))

    def are_parallel(self, groups: Sequence[str]) -> bool:
        """Whether these groups have the same documents, up to translation, and share none."""
        if self._excess:
            return False
        keys = [sorted(self._parallel_keys[each] for each in self._rows[group]) for group in groups]
        if len(keys) < 2 or len(set(keys[0])) < len(keys[0]):
            return False
        return all(each == keys[0] for each in keys)

    def blocks(self, compared: Sequence[str]) -> tuple[list[Array], list[str]]:
        """Sums by document, in blocks of groups whose documents are drawn together.

        Args:
            compared: The groups between which differences are taken: one block if they are
                parallel, else one each. The remaining groups make up the last block, where each
                document belongs to one group; it matters only for figures of the whole run.

        Returns:
            Arrays of shape (num_documents, num_groups, num_columns), and all groups' names in
            their order. Where groups share documents there is one block; its last column, which
            belongs to no group, takes off what the sum over groups counts more than once.
        """
        if self._excess:
            order = [*compared, *(group for group in self._rows if group not in compared)]
            return [self._overlapping(order)], order
        rows = {
            group: np.stack([documents[each] for each in sorted(documents, key=self._place)])
            for group, documents in sorted(self._rows.items())
        }
        if self.are_parallel(compared):
            blocks = [np.stack([rows[group] for group in compared], axis=1)]
        else:
            blocks = [rows[group][:, None] for group in compared]
        rest = [group for group in rows if group not in compared]
        if rest:
            alone = [np.zeros((len(rows[group]), len(rest), len(COLUMNS))) for group in rest]
            for place, group in enumerate(rest):
                alone[place][:, place] = rows[group]
            blocks.append(np.concatenate(alone))
        return blocks, [*compared, *rest]

    def _overlapping(self, order: Sequence[str]) -> Array:
        """All documents with their sums in each group, shape (documents, groups + 1, columns)."""
        documents = {document: place for place, document in enumerate(self._parallel_keys)}
        block = np.zeros((len(documents), len(order) + 1, len(COLUMNS)))
        for column, group in enumerate(order):
            for document, row in self._rows[group].items():
                block[documents[document], column] = row
        for document, excess in self._excess.items():
            block[documents[document], -1] = -excess
        return block

    def _place(self, document: _Document) -> tuple[tuple[str, int], _Document]:
        """The same in every run of the same requests, in whatever order they finished."""
        return self._parallel_keys[document], document
