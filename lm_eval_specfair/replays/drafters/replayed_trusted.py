"""A lookup that goes before a model, along finished texts: the model in one pass over each."""

import math
from collections.abc import Callable, Generator, Sequence

from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup
from lm_eval_specfair.replays.drafters.replayed_drafter import (
    Along,
    Expected,
    ModelAlong,
    Positions,
    ReplayedModel,
)
from lm_eval_specfair.replays.drafters.replayed_proposals import (
    Drawn,
    Proposal,
    Walk,
    drawn_at,
    measure,
)
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.text_batches import TextBatch


class ReplayedTrusted:
    """A model, but where a lookup finds a match (`decoding.composed.trusted_first`)."""

    def __init__(self, make: Callable[[], SuffixLookup], model: ReplayedModel) -> None:
        """Replay a model behind what `make` returns: for each text a lookup of its own."""
        self._make, self._model = make, model
        self.reader = model.reader

    def along(self, batch: TextBatch, lengths: Sequence[int], *, measures: bool) -> Along:
        model = self._model.along(batch, lengths, measures=measures)
        return _TrustedAlong(self._make, model, self.reader.max_length, batch.texts, lengths)


class _TrustedAlong:
    def __init__(
        self,
        make: Callable[[], SuffixLookup],
        model: ModelAlong,
        max_length: int,
        texts: Sequence[KnownText],
        lengths: Sequence[int],
    ) -> None:
        self._model = model
        self._walks: dict[tuple[int, int], _TrustedWalk] = {}
        begin = 0
        for number, text in enumerate(texts):
            for length in lengths:
                walk = _TrustedWalk(make, text, length, begin, model, max_length)
                self._walks[number, length] = walk
            begin += len(text.response)

    def look(self, positions: Positions) -> None:
        self._model.look(positions)
        drawn, found = drawn_at(positions), list[tuple[Walk, int, Proposal]]()
        for walk in self._walks.values():
            for place, proposal in walk.examined(positions.places, drawn):
                if proposal is not None:
                    found.append((walk, place, proposal))
                    if positions.uncut is not None:  # all of q was on one token
                        walk.counters.add_untruncated_position(math.inf, 0.0)
                    continue
                if self._model.terms is not None:
                    walk.counters.add_position(*self._model.terms[:, place].tolist())
                if self._model.uncut is not None:
                    walk.counters.add_untruncated_position(*self._model.uncut[:, place].tolist())
        if found and self._model.terms is not None and positions.target is not None:
            measure(positions, found)

    def counters(self, number: int, num_speculative_tokens: int) -> RequestCounters:
        return self._walks[number, num_speculative_tokens].counted()

    def expected(self, number: int, num_speculative_tokens: int) -> Expected | None:
        return None  # whether a match is found at a place depends on where the steps begin


class _TrustedWalk(Walk):
    """The steps over one text; the proposal at a place that the model drafted for is None."""

    def __init__(
        self,
        make: Callable[[], SuffixLookup],
        text: KnownText,
        length: int,
        begin: int,
        model: ModelAlong,
        max_length: int,
    ) -> None:
        self._model = model
        super().__init__(make(), text, length, begin, max_length=max_length)

    def _step(
        self, drafter: Drafter, place: int, wanted: int
    ) -> Generator[tuple[int, Proposal | None], Drawn, tuple[int, int]]:
        assert isinstance(drafter, SuffixLookup)
        response = self._text.response
        history = [*self._text.prompt, *response[:place]]
        tokens = drafter.continuation(0, history, wanted)
        number = len(tokens) or wanted
        most, kept = min(number, len(response) - place), 0
        while kept < most:
            here = place + kept
            yield here, tokens[kept] if tokens else None
            # Of a sampled text too: a rejected token never follows its own rejection.
            at = self._begin + here
            if tokens[kept] != response[here] if tokens else not self._model.marks[at]:
                break
            kept += 1
        if tokens:
            self._rejected.append(tokens[kept:])
        else:  # what would have been drafted behind the rejected one is not known
            at = self._begin + place + kept
            self._rejected.append([int(self._model.drafted[at])] if kept < most else [])
        return number, kept
