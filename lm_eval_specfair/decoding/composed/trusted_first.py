"""Looks up first: a match that is long enough is followed, else another drafter drafts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.composed.merged_drafts import as_points, merged, of_rows
from lm_eval_specfair.decoding.drafters import Draft, Drafter, looked_up
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup


class TrustedFirst(Drafter):
    """A lookup where its match has at least a trusted length, else another drafter.

    Which of them drafts depends on the row's kept tokens alone, so a step is as lossless as theirs.
    A step in which no row needs the other one costs it nothing: a model reads what it missed when
    it is asked again. Where some rows need it, it reads the others' tokens as well, since a pass
    is over all rows; what it drafts for them is thrown away.
    """

    def __init__(
        self,
        lookup: SuffixLookup,
        other: Drafter,
        *,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """Draft for a target with `vocab_size` scores; the lookup says which matches it trusts."""
        self._lookup, self._other = lookup, other
        self._vocab_size, self._device = vocab_size, device
        self.max_length = other.max_length
        self.states = other.states
        self.feature_layers = other.feature_layers
        self._looked_up: set[int] | None = None  # of the last step; None where all rows were

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        self._lookup.admit(rows, prompts)
        self._other.admit(rows, prompts)

    def read_features(self, rows: list[int], features: Sequence[Tensor]) -> None:
        self._other.read_features(rows, features)

    def longest(self, row: int) -> int:
        return self._other.longest(row)

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        trusted = dict[int, list[int]]()
        for row, history in enumerate(histories):
            tokens = self._lookup.continuation(row, history, lengths[row])
            if tokens or not lengths[row]:
                trusted[row] = tokens
        others = [row for row in range(len(lengths)) if row not in trusted]
        self._looked_up = set(trusted) if others else None
        found = looked_up([trusted.get(row, []) for row in range(len(lengths))], self._device)
        if not others:
            return as_points(found, self._vocab_size) if config.truncates else found
        draft = self._other.propose(histories, lengths, config, uniforms)
        if len(others) == len(lengths):
            return draft
        return merged(
            [(list(trusted), of_rows(found, list(trusted))), (others, of_rows(draft, others))],
            len(lengths),
            vocab_size=self._vocab_size,
            device=self._device,
        )

    def rolled_back(self, num_accepted: list[int]) -> None:
        if self._looked_up is not None:
            # Of a row that was looked up the other one's own draft was not even tried.
            self._other.rolled_back(
                [
                    0 if row in self._looked_up else accepted
                    for row, accepted in enumerate(num_accepted)
                ]
            )

    def move(self, source: int, destination: int) -> None:
        self._lookup.move(source, destination)
        self._other.move(source, destination)

    def remove(self, row: int, last: int) -> None:
        self._lookup.remove(row, last)
        self._other.remove(row, last)

    def reset(self) -> None:
        self._lookup.reset()
        self._other.reset()
