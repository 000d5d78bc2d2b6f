"""A drafter without weights along finished texts: the engine's own, asked again at each step.

It may propose what it likes (a copy from one place of the text, an n-gram's continuation), since it
is asked where a step begins, as the engine asks it. What it keeps of a text is forgotten with the
batch.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import draw
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.drafters import Draft, Drafter, fit_vocabulary
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.drafters.replayed_drafter import (
    Along,
    Expected,
    Positions,
    config_of,
)
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.text_batches import TextBatch
from lm_eval_specfair.steps import Steps, step_walk

Proposal = int | Tensor
"""q at one place: the only token that was proposed, or unnormalised log q, shape (vocab,)."""


@dataclass(frozen=True, slots=True)
class DecidedToken:
    """What decides a sampled token at one place.

    Attributes:
        to_keep: A uniform number, by which a draft is kept or not.
        to_reject: One by which it is drawn what was rejected.
        chance: p of the text's token.
        scores: log p, shape (vocab,).
    """

    to_keep: float
    to_reject: float
    chance: float
    scores: Tensor

    def rejected(self, proposal: Tensor) -> int:
        """The token that was drafted in place of the text's: of the law of max(q - p, 0)."""
        q = fit_vocabulary(proposal, len(self.scores)).double().exp()
        excess = (q - self.scores.double().exp()).clamp(min=0)
        # Where they are equal up to rounding, nothing is left to draw from.
        weights = torch.where(excess.sum() > 0, excess, q)
        number = torch.tensor([self.to_reject], dtype=torch.float64, device=weights.device)
        return int(draw(weights[None], number))


Drawn = DecidedToken | None
"""What decides a place of a sampled text; None of a greedy one."""


class ReplayedProposals:
    """Any of the engine's drafters that need no pass of a model (`decoding.drafters.Drafter`)."""

    reader = None

    def __init__(self, make: Callable[[], Drafter]) -> None:
        """Replay what `make` returns: for each text a drafter of its own, in row 0."""
        self._make = make

    def along(self, batch: TextBatch, lengths: Sequence[int], *, measures: bool) -> Along:
        return ProposalsAlong(lambda _: self._make(), batch.texts, lengths, measures=measures)


class ProposalsAlong:
    """Drafters along the texts of one batch, one for each text and draft length."""

    def __init__(
        self,
        make: Callable[[int], Drafter],
        texts: Sequence[KnownText],
        lengths: Sequence[int],
        *,
        measures: bool,
        knows_all_discarded: bool = True,
    ) -> None:
        """With what makes the drafter of the batch's n-th text.

        Without `knows_all_discarded`, what a drafter drafts behind a token that is not the text's
        is not what it would have drafted there.
        """
        self._measures = measures
        self._walks: dict[tuple[int, int], Walk] = {}
        begin = 0
        for number, text in enumerate(texts):
            for length in lengths:
                self._walks[number, length] = Walk(
                    make(number), text, length, begin, knows_all_discarded=knows_all_discarded
                )
            begin += len(text.response)

    def look(self, positions: Positions) -> None:
        drawn = drawn_at(positions)
        measures = self._measures and positions.target is not None
        # A proposal is as large as the vocabulary: without a target none of thousands is kept.
        found = [
            (walk, place, proposal)
            for walk in self._walks.values()
            for place, proposal in walk.examined(positions.places, drawn)
            if measures and proposal is not None  # it never is
        ]
        if found:
            measure(positions, found)

    def counters(self, number: int, num_speculative_tokens: int) -> RequestCounters:
        return self._walks[number, num_speculative_tokens].counted()

    def expected(self, number: int, num_speculative_tokens: int) -> Expected | None:
        return None  # what it would propose elsewhere is nowhere asked for


def drawn_at(positions: Positions) -> list[Drawn]:
    """What decides whether the text's token at each position is kept."""
    if positions.uniforms is None:
        return [None] * len(positions.tokens)
    assert positions.target is not None
    all_scores = positions.target.scores
    scores = all_scores.gather(1, positions.tokens[:, None])[:, 0]
    chances, numbers = scores.double().exp().tolist(), positions.uniforms.tolist()
    return [DecidedToken(*each) for each in zip(*numbers, chances, all_scores, strict=True)]


@torch.inference_mode()
def measure(positions: Positions, found: Sequence[tuple["Walk", int, Proposal]]) -> None:
    """Add the divergences of proposals at their places to their walks' counters."""
    assert positions.target is not None
    first, p = positions.places.start, positions.target.scores
    for start in range(0, len(found), len(p)):  # no more scores at once than of the target
        some = found[start : start + len(p)]
        q = torch.full((len(some), p.shape[1]), -torch.inf, dtype=p.dtype, device=p.device)
        for row, (_, _, proposal) in zip(q, some, strict=True):
            if isinstance(proposal, int):
                row[proposal] = 0.0  # all of it is on the proposed token
            else:
                row[:] = fit_vocabulary(proposal, p.shape[1])
        rows = torch.tensor([place - first for _, place, _ in some], device=p.device)
        terms = positions.target.at(rows).divergences(q)
        for (walk, _, _), *own in zip(some, *torch.stack(terms).tolist(), strict=True):
            walk.counters.add_position(*own)


class Walk:
    """The steps over one text with one draft length, as far as the target was looked at."""

    def __init__(
        self,
        drafter: Drafter,
        text: KnownText,
        length: int,
        begin: int,
        *,
        max_length: int | None = None,
        knows_all_discarded: bool = True,
    ) -> None:
        """Walk over a text that begins at a place of its batch.

        `max_length` is the longest row that can be continued; by default the drafter's own.
        """
        self.counters = RequestCounters()
        self._max_length = max_length
        self._drafter, self._text, self._length = drafter, text, length
        self._knows_all_discarded = knows_all_discarded
        self._begin = begin  # of the text, among the places of its batch
        self._config = config_of(text)
        self._pending: tuple[int, Proposal | None] | None = None
        self._steps: Steps | None = None
        self._rejected: list[list[int]] = []  # of each step that drafted something
        self._examining = self._examine()
        self._go_on(None)

    def examined(
        self, places: slice, drawn: Sequence[Drawn]
    ) -> Iterator[tuple[int, Proposal | None]]:
        """Take the steps that end among some of the batch's places: what is examined there."""
        while self._pending is not None:
            place, proposal = self._pending[0] + self._begin, self._pending[1]
            if place >= places.stop:
                break
            self._go_on(drawn[place - places.start])
            yield place, proposal

    def counted(self) -> RequestCounters:
        """The counters of the whole text, once all of it was looked at."""
        assert self._steps is not None
        self.counters.drafted_per_step = self._steps.drafted
        self.counters.accepted_per_step = self._steps.accepted
        rejected = iter(self._rejected)
        self.counters.discarded_per_step = [
            next(rejected) if drafted else [] for drafted in self._steps.drafted
        ]
        self.counters.num_examined = len(self._steps.examined_places)
        return self.counters

    def _go_on(self, drawn: Drawn) -> None:
        try:
            self._pending = self._examining.send(drawn)
        except StopIteration as end:
            self._pending, self._steps = None, end.value

    def _examine(self) -> Generator[tuple[int, Proposal | None], Drawn, Steps]:
        """Yields each examined place and q there; is sent what decides a sampled token."""
        drafter, text = self._drafter, self._text
        drafter.admit([0], [list(text.prompt)])
        walk = step_walk(
            len(text.response),
            num_speculative_tokens=self._length,
            max_new_tokens=text.max_new_tokens,
            num_prompt_tokens=len(text.prompt),
            max_length=self._max_length or drafter.max_length,
        )
        try:
            place, wanted = next(walk)
            while True:
                number, kept = yield from self._step(drafter, place, wanted)
                place, wanted = walk.send((number, kept))
        except StopIteration as end:
            steps: Steps = end.value
            return steps

    def _step(
        self, drafter: Drafter, place: int, wanted: int
    ) -> Generator[tuple[int, Proposal | None], Drawn, tuple[int, int]]:
        """Tokens drafted at a place, and how many of them are kept in a row."""
        following = self._text.response[place:]
        history = [*self._text.prompt, *self._text.response[:place]]
        forced = _Forced(drafter, history, wanted, self._config)
        draft, kept = forced.draft, 0
        rejected: list[int] = []
        while kept < draft.num_drafted[0] and kept < len(following):
            token, drafted = following[kept], int(draft.tokens[0, kept])
            proposal = drafted if draft.scores is None else draft.scores[0, kept]
            drawn = yield place + kept, proposal
            if drawn is None or isinstance(proposal, int):
                # Of a sampled text too: a rejected token never follows its own rejection.
                if drafted != token:
                    break
            else:
                # In place of the token that q drew: the text's own, given that it is the text's.
                q = float(proposal[token].double().exp()) if token < len(proposal) else 0.0
                if drawn.to_keep * drawn.chance >= q:
                    rejected = [drawn.rejected(proposal)]
                    break
                if drafted != token:
                    draft = forced.follow(following[: kept + 1])
            kept += 1
        drafter.rolled_back([kept])
        if draft.num_drafted[0]:
            # What was drawn, but for the text's own tokens, is a stand-in (`_Forced`).
            is_drawn = draft.scores is not None and not self._config.greedy
            thrown = rejected if is_drawn else draft.tokens[0, kept : draft.num_drafted[0]].tolist()
            self._rejected.append(thrown if self._knows_all_discarded else thrown[:1])
        return draft.num_drafted[0], kept


class _Forced:
    """A step's draft, made to follow the text where it would have drawn something else."""

    def __init__(
        self, drafter: Drafter, history: list[int], wanted: int, config: DecodeConfig
    ) -> None:
        self._drafter, self._history, self._wanted = drafter, history, wanted
        self._config = config
        self._uniforms = None if config.greedy else torch.full((1, wanted), 0.5).double()
        self.draft = self._proposed()

    def _proposed(self) -> Draft:
        return self._drafter.propose([self._history], [self._wanted], self._config, self._uniforms)

    def follow(self, tokens: Sequence[int]) -> Draft:
        """The draft that begins with these tokens, each of which q can draw.

        Raises:
            ConfigError: If the drafter does not draw as the engine's do.
        """
        assert self._uniforms is not None
        assert self.draft.scores is not None
        place = len(tokens) - 1
        weights = self.draft.scores[0, place].double().exp()
        before = float(weights[: tokens[-1]].sum())
        # The middle of the token's share: `acceptance.draw` inverts the cumulative weights.
        self._uniforms[0, place] = (before + float(weights[tokens[-1]]) / 2) / float(weights.sum())
        self._drafter.rolled_back([0])
        self.draft = self._proposed()
        if self.draft.tokens[0, : len(tokens)].tolist() != list(tokens):
            raise ConfigError(
                f"{type(self._drafter).__name__} does not draw its tokens from the numbers that it "
                "is given (`acceptance.draw`): sampled texts cannot be replayed with it"
            )
        return self.draft
