"""Replayed drafters: what a model would have proposed along finished texts."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import draw, most_likely, tempered, truncated
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.decoding.drafters import fit_vocabulary
from lm_eval_specfair.decoding.engine import request_generator
from lm_eval_specfair.divergence import TargetDistribution
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import TextReader
from lm_eval_specfair.replays.passes.text_batches import TextBatch
from lm_eval_specfair.steps import Steps, agreeing_by_marks, expected_counts, steps_of


class Positions:
    """Some of a batch's response positions, one text after another, with the target's scores.

    Attributes:
        places: Which ones.
        tokens: The texts' tokens there.
        config: The sampling settings of all texts of the batch.
        uniforms: Two numbers in [0, 1) for each, from its request's own generator, shape (2,
            positions): what is kept is decided by the first, what was rejected by the second;
            None where texts are greedy.
        target: p, from greedy texts' plain softmax, else as it was drawn from; None without target.
        uncut: p at the temperature, before top-k and top-p; None where these cut nothing off.
    """

    def __init__(
        self,
        places: slice,
        tokens: Tensor,
        config: DecodeConfig,
        uniforms: Tensor | None,
        target: TargetDistribution | None,
        uncut: TargetDistribution | None = None,
    ) -> None:
        self.places, self.tokens, self.config = places, tokens, config
        self.uniforms, self.target, self.uncut = uniforms, target, uncut


Expected = tuple[float, float, float]
"""Expected steps, drafted and accepted tokens of a sampled text (`steps.expected_counts`)."""


class Along(Protocol):
    """A drafter along the texts of one batch: it looks at all positions, then it counts."""

    def look(self, positions: Positions) -> None:
        """Take note of what it says at positions that were not yet looked at."""

    def counters(self, number: int, num_speculative_tokens: int) -> RequestCounters:
        """The counters of the batch's n-th text, without times."""

    def expected(self, number: int, num_speculative_tokens: int) -> Expected | None:
        """What could have been kept of a sampled text, on average; None where nothing is drawn."""


class ReplayedDrafter(Protocol):
    """Proposes along finished texts."""

    @property
    def reader(self) -> TextReader | None:
        """Of its model, if it has one."""

    def along(self, batch: TextBatch, lengths: Sequence[int], *, measures: bool) -> Along:
        """Begin a batch, whose steps will be counted with these draft lengths.

        `measures` says whether the target's distributions will be known.
        """


class ReplayedModel:
    """A small causal LM, in one pass over each text.

    A token of a greedy text was drafted and kept where it is the drafter's most likely one. A token
    x of a sampled text was drafted and kept with chance `min(p, q) / p = min(1, q(x) / p(x))`,
    whatever the step; where it was not, a token was rejected that has the law of `max(q - p, 0)`,
    normalised, whatever replaced it. Both draws are from the request's own generator.
    """

    def __init__(self, reader: TextReader, *, vocab_size: int | None) -> None:
        """Replay a model for a target with `vocab_size` scores (None: the drafter's own number)."""
        self.reader = reader
        self.vocab_size = vocab_size or reader.vocab_size
        self._latest: tuple[TextBatch, ModelAlong] | None = None

    def along(self, batch: TextBatch, lengths: Sequence[int], *, measures: bool) -> "ModelAlong":
        """The batch read with it, once for all drafters that it is a part of."""
        if self._latest is None or self._latest[0] is not batch:
            self._latest = batch, ModelAlong(self, batch, measures=measures)
        return self._latest[1]

    @staticmethod
    def drafted(scores: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """What was drafted at each position, whether it was kept, and the chance of that."""
        if positions.uniforms is None:
            drafted = most_likely(scores)
            marks = drafted == positions.tokens
            return drafted, marks, marks.double()
        assert positions.target is not None
        chosen, to_keep, to_reject = positions.tokens[:, None], *positions.uniforms
        q = scores.gather(1, chosen)[:, 0].double().exp()
        p = positions.target.scores.gather(1, chosen)[:, 0].double().exp()
        # u * p < q instead of u < q / p, as the engine decides.
        marks = to_keep * p < q
        drafted, rejected = positions.tokens.clone(), torch.nonzero(~marks)[:, 0]
        if len(rejected):
            all_q = scores[rejected].double().exp()
            excess = (all_q - positions.target.scores[rejected].double().exp()).clamp(min=0)
            # Where they are equal up to rounding, nothing is left to draw from.
            weights = torch.where(excess.sum(1, keepdim=True) > 0, excess, all_q)
            drafted[rejected] = draw(weights, to_reject[rejected])
        # 0 / 0 is a token that neither could have drawn: it was not kept.
        return drafted, marks, (q / p).nan_to_num(nan=0.0).clamp(max=1)


class ModelAlong:
    """A model along the texts of one batch.

    Attributes:
        marks: Whether the token of each place would have been drafted, and kept.
        drafted: What was drafted there, or would have been.
        terms: Overlap, cross-entropy and the target's entropy there; None without a target.
        uncut: Cross-entropy and entropy before top-k and top-p, where these cut.
    """

    def __init__(self, drafter: ReplayedModel, batch: TextBatch, *, measures: bool) -> None:
        self._drafter, self._texts = drafter, batch.texts
        self._reading = drafter.reader.read(batch)
        self._ends = np.cumsum([len(text.response) for text in batch.texts])
        self.marks = np.zeros(self._ends[-1], dtype=bool)
        self._chances = np.zeros(self._ends[-1])
        self.drafted = np.zeros(self._ends[-1], dtype=np.int64)
        self.terms = np.zeros((3, self._ends[-1])) if measures else None
        self.uncut: NDArray[np.float64] | None = None
        self._seen: Positions | None = None  # the latest

    @torch.inference_mode()
    def look(self, positions: Positions) -> None:
        drafter, places = self._drafter, positions.places
        if positions is self._seen:
            return
        self._seen = positions
        raw = scores = fit_vocabulary(self._reading.scores(places), drafter.vocab_size)
        if positions.uniforms is not None:
            raw = tempered(raw, positions.config)
            scores = truncated(raw, positions.config)
        drafted, marks, chances = drafter.drafted(scores, positions)
        self.marks[places] = marks.cpu().numpy()
        self.drafted[places] = drafted.cpu().numpy()
        self._chances[places] = chances.cpu().numpy()
        if self.terms is not None and positions.target is not None:
            terms = positions.target.divergences(scores.to(positions.target.p.dtype))
            self.terms[:, places] = torch.stack(terms).cpu().numpy()
        if positions.uncut is not None:
            if self.uncut is None:
                self.uncut = np.zeros((2, self._ends[-1]))
            terms = positions.uncut.divergences(raw.to(positions.uncut.p.dtype))
            self.uncut[:, places] = torch.stack(terms[1:]).cpu().numpy()

    def counters(self, number: int, num_speculative_tokens: int) -> RequestCounters:
        text = self._texts[number]
        own = self._own(number)
        steps = steps_of(
            len(text.response),
            agreeing_by_marks(self.marks[own].tolist()),
            num_speculative_tokens=num_speculative_tokens,
            max_new_tokens=text.max_new_tokens,
            num_prompt_tokens=len(text.prompt),
            max_length=self._drafter.reader.max_length,
        )
        terms = None if self.terms is None else self.terms[:, own][:, steps.examined_places]
        drafted = self.drafted[own].tolist()
        rejected = [[] if place is None else [drafted[place]] for place in steps.rejected_places]
        counters = counters_of(steps, rejected, terms)
        if self.uncut is not None:
            for each in self.uncut[:, own][:, steps.examined_places].T.tolist():
                counters.add_untruncated_position(*each)
        return counters

    def expected(self, number: int, num_speculative_tokens: int) -> Expected | None:
        text = self._texts[number]
        if text.temperature == 0:
            return None
        return expected_counts(
            self._chances[self._own(number)].tolist(),
            num_speculative_tokens=num_speculative_tokens,
            max_new_tokens=text.max_new_tokens,
            num_prompt_tokens=len(text.prompt),
            max_length=self._drafter.reader.max_length,
        )

    def _own(self, number: int) -> slice:
        return slice(self._ends[number] - len(self._texts[number].response), self._ends[number])


def counters_of(
    steps: Steps, rejected: list[list[int]], terms: NDArray[np.float64] | None
) -> RequestCounters:
    """A request's counters: its steps, and where p is known the divergences at examined places.

    `rejected` are the ids that each step threw away, as far as they are known; `terms` are overlap,
    cross-entropy and the target's entropy (nats), shape (3, examined places).
    """
    counters = RequestCounters(
        drafted_per_step=steps.drafted,
        accepted_per_step=steps.accepted,
        discarded_per_step=rejected,
        num_examined=len(steps.examined_places),
    )
    if terms is not None:
        for overlap, cross_entropy, entropy in terms.T.tolist():
            counters.add_position(overlap, cross_entropy, entropy)
    return counters


def config_of(text: KnownText) -> DecodeConfig:
    """The sampling settings of a text."""
    return DecodeConfig(
        temperature=text.temperature,
        top_k=text.top_k,
        top_p=text.top_p,
        drafter_temperature=text.drafter_temperature,
    )


def uniforms_of(texts: Sequence[KnownText], seed: int) -> Tensor:
    """Two numbers for each response token, from the requests' own generators, shape (2, tokens)."""
    return torch.from_numpy(
        np.concatenate(
            [
                request_generator(seed, text.request_id).random((2, len(text.response)))
                for text in texts
            ],
            axis=1,
        )
    )
