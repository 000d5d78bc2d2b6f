"""Replayed drafters: what a model, or prompt lookup, would have proposed along finished texts."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import log_distribution, most_likely
from lm_eval_specfair.decoding.drafters import PromptLookup, fit_vocabulary
from lm_eval_specfair.decoding.engine import request_generator
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.one_pass import OnePass
from lm_eval_specfair.steps import Agreeing, agreeing_by_marks


@dataclass(frozen=True, slots=True)
class Proposals:
    """A drafter along one text.

    Attributes:
        agreeing: What it proposes at a place, and how much of it is kept.
        scores: `log q` (or unnormalised scores, for a greedy text) before each token of the
            response, shape (num_response_tokens, vocab); None for a drafter without distributions.
        drafted_at: For such a drafter the token it proposed at each examined place, once
            `agreeing` was asked.
    """

    agreeing: Agreeing
    scores: Tensor | None
    drafted_at: Mapping[int, int] = field(default_factory=dict)


class ReplayedDrafter(Protocol):
    """Proposes along finished texts."""

    max_length: int  # the longest row (in tokens) that it can continue

    def along(
        self, texts: Sequence[KnownText], target_scores: Sequence[Tensor] | None, seed: int
    ) -> list[Proposals]:
        """What it would have proposed, for each text of a batch.

        The target's scores are those before each token of the responses, for sampled texts already
        `log p` of the distribution that was drawn from. With the request, the seed decides what is
        kept of sampled texts.
        """


class ReplayedModel:
    """A small causal LM, in one pass over each text.

    A token of a greedy text was drafted and kept where it is the drafter's most likely one. A token
    x of a sampled text was drafted and kept with chance `min(p, q) / p = min(1, q(x) / p(x))`,
    whatever the step; the draw is from the request's own generator.
    """

    def __init__(self, reader: OnePass, *, vocab_size: int | None) -> None:
        """Replay a model for a target with `vocab_size` scores (None: the drafter's own number)."""
        self._reader = reader
        self._vocab_size = vocab_size or reader.vocab_size
        self.max_length = reader.max_length

    def along(
        self, texts: Sequence[KnownText], target_scores: Sequence[Tensor] | None, seed: int
    ) -> list[Proposals]:
        known = [text for text in texts if text.num_read <= self.max_length]
        scores = dict(zip(map(id, known), self._reader.scores(known) if known else [], strict=True))
        proposals = []
        for number, text in enumerate(texts):
            q = scores.get(id(text))
            if q is None:  # longer than the drafter can read: it is read up to its last position
                q = self._cut(text)
            q = fit_vocabulary(q, self._vocab_size)
            p = None if target_scores is None else target_scores[number][: len(q)]
            proposals.append(self._proposals(text, q, p, seed))
        return proposals

    def _cut(self, text: KnownText) -> Tensor:
        room = self.max_length - len(text.prompt) + 1
        if room < 1:
            return torch.empty((0, self._vocab_size))
        (scores,) = self._reader.scores([dataclasses.replace(text, response=text.response[:room])])
        return scores

    def _proposals(self, text: KnownText, q: Tensor, p: Tensor | None, seed: int) -> Proposals:
        response = torch.tensor(text.response[: len(q)], device=q.device)
        if text.temperature == 0:
            marks = most_likely(q.float()) == response
        else:
            assert p is not None
            q = log_distribution(q.float(), config_of(text))
            chosen = response[:, None]
            chance_q = q.gather(1, chosen)[:, 0].double().exp()
            chance_p = p.gather(1, chosen)[:, 0].double().exp()
            uniforms = request_generator(seed, text.request_id).random(len(text.response))
            drawn = torch.from_numpy(uniforms[: len(q)]).to(q.device)
            marks = drawn * chance_p < chance_q
        padding = [False] * (len(text.response) - len(q))
        return Proposals(agreeing_by_marks([*marks.tolist(), *padding]), q)


class ReplayedLookup:
    """Prompt lookup: the engine's own, asked again at the start of every step."""

    max_length = PromptLookup.max_length

    def along(
        self, texts: Sequence[KnownText], target_scores: Sequence[Tensor] | None, seed: int
    ) -> list[Proposals]:
        return [_looking_up(text) for text in texts]


def _looking_up(text: KnownText) -> Proposals:
    lookup = PromptLookup(torch.device("cpu"))
    drafted_at: dict[int, int] = {}

    def agreeing(place: int, length: int) -> tuple[int, int]:
        if place == 0:  # another draft length begins: nothing of the response is indexed yet
            lookup.admit([0], [text.prompt])
        drafted = lookup.continuation(0, [*text.prompt, *text.response[:place]])[:length]
        pairs = zip(drafted, text.response[place:], strict=False)
        kept = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        drafted_at.update(enumerate(drafted[: kept + 1], start=place))
        return len(drafted), kept

    return Proposals(agreeing, None, drafted_at)


def config_of(text: KnownText) -> DecodeConfig:
    """The sampling settings of a text."""
    return DecodeConfig(temperature=text.temperature, top_k=text.top_k, top_p=text.top_p)
