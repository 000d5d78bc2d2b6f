"""Drafters that share a batch: each drafts the rows of the requests that name it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.composed.merged_drafts import merged
from lm_eval_specfair.decoding.drafters import Draft, Drafter, no_draft


class RoutedDrafter(Drafter):
    """Several drafters, of which each row has one or none.

    Each keeps a batch of its own rows, so that one without rows does nothing at all; the steps of
    those that have rows follow each other. A row keeps its drafter from its prompt to its end.
    """

    def __init__(
        self,
        drafters: Mapping[str, Drafter],
        default: str,
        *,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """Draft for a target with `vocab_size` scores.

        Args:
            drafters: By the name that requests give; a name that is not here drafts nothing.
            default: The drafter of requests that name none.
            vocab_size: Number of the target's scores.
            device: Where tokens are.
        """
        self._drafters, self._default = drafters, default
        self._vocab_size, self._device = vocab_size, device
        self.max_length = max(drafter.max_length for drafter in drafters.values())
        kept = {name: drafter.states for name, drafter in drafters.items() if drafter.states}
        layers = [drafter.feature_layers for drafter in drafters.values()]
        self.feature_layers = tuple(sorted(set().union(*layers)))
        self.states = ", ".join(f"{name}: {states}" for name, states in kept.items()) or None
        self._names: dict[int, str] = {}  # of the drafters of rows that have one
        self._members: dict[str, list[int]] = {name: [] for name in drafters}
        self._used: set[str] = set()  # since the last reset
        self._proposing: list[str] = []

    def assign(self, rows: list[int], names: Sequence[str | None]) -> None:
        for row, name in zip(rows, names, strict=True):
            chosen = self._default if name is None else name
            if chosen in self._drafters:
                self._names[row] = chosen
            else:
                self._names.pop(row, None)

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        prompt_of = dict(zip(rows, prompts, strict=True))
        for name, drafter in self._drafters.items():
            new = [row for row in rows if self._names.get(row) == name]
            if not new:
                continue
            first = len(self._members[name])
            self._members[name] += new
            self._used.add(name)
            drafter.admit(list(range(first, first + len(new))), [prompt_of[row] for row in new])

    def read_features(self, rows: list[int], features: Sequence[Tensor]) -> None:
        """Hand each drafter those of its rows, and of these the layers that it reads."""
        features_of = dict(zip(rows, features, strict=True))
        number = len(self.feature_layers)
        for name, drafter in self._drafters.items():
            members = self._members[name]
            places = [place for place, row in enumerate(members) if row in features_of]
            if not drafter.feature_layers or not places:
                continue
            layers = [self.feature_layers.index(layer) for layer in drafter.feature_layers]
            parts = [features_of[members[place]] for place in places]
            drafter.read_features(
                places,
                [torch.cat([part.chunk(number, -1)[i] for i in layers], -1) for part in parts],
            )

    def longest(self, row: int) -> int:
        name = self._names.get(row)
        return 0 if name is None else self._drafters[name].longest(self._members[name].index(row))

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """Let each drafter that a row waits for draft its rows, and put their drafts together."""
        parts = {}
        for name, members in self._members.items():
            if not any(lengths[row] for row in members):
                continue  # a row that does not draft now never does again
            parts[name] = self._drafters[name].propose(
                [histories[row] for row in members],
                [lengths[row] for row in members],
                config.of_rows(members),
                None if uniforms is None else uniforms[members],
            )
        self._proposing = list(parts)
        if not parts:
            return no_draft(len(lengths), self._device)
        if len(parts) == 1:
            [(name, part)] = parts.items()
            if self._members[name] == list(range(len(lengths))):
                return part
        return merged(
            [(self._members[name], part) for name, part in parts.items()],
            len(lengths),
            vocab_size=self._vocab_size,
            device=self._device,
        )

    def rolled_back(self, num_accepted: list[int]) -> None:
        for name in self._proposing:
            members = self._members[name]
            self._drafters[name].rolled_back([num_accepted[row] for row in members])

    def remove(self, row: int, last: int) -> None:
        """A row is done: its drafter forgets it, and the last row takes its number."""
        name = self._names.pop(row, None)
        if name is not None:
            members = self._members[name]
            place, end = members.index(row), len(members) - 1
            self._drafters[name].remove(place, end)
            members[place] = members[end]
            members.pop()
        if row < last and (moved := self._names.pop(last, None)) is not None:
            self._names[row] = moved
            members = self._members[moved]
            members[members.index(last)] = row

    def reset(self) -> None:
        for name in self._used:
            self._drafters[name].reset()
            self._members[name] = []
        self._names, self._used, self._proposing = {}, set(), []
