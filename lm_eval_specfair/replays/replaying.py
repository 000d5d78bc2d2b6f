"""Replay: every drafter and draft length on every text, one pass of each model over each batch.

The target, where there is one, reads a batch once for all drafters; only one batch's scores are
ever held.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_eval_specfair.decoding.acceptance import log_distribution, most_likely
from lm_eval_specfair.decoding.counters import RequestCounters, add_divergences
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.one_pass import OnePass, batches
from lm_eval_specfair.replays.replayed_drafter import Proposals, ReplayedDrafter, config_of
from lm_eval_specfair.steps import steps_of

# Within this much of the best score, relative to the scores' spread, fp32 rounding may decide.
TIE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """Where a greedy text is not the target's own.

    Attributes:
        place: The first such token of the response, from 0.
        below: How far its score is below the best one, in standard deviations of the scores.
    """

    request_id: str
    place: int
    below: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedText:
    """What one drafter with one draft length did on one text; its counters have no times.

    `departure` is None too where the text was not held against the target.
    """

    text: KnownText
    drafter: str
    num_speculative_tokens: int
    counters: RequestCounters
    departure: Departure | None


def replay_texts(
    texts: Sequence[KnownText],
    drafters: Mapping[str, ReplayedDrafter],
    lengths: Sequence[int],
    *,
    target: OnePass | None = None,
    vocab_size: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Iterator[ReplayedText]:
    """Take the steps of each text again, with each drafter and draft length, batch by batch.

    Args:
        texts: Finished; sampled ones need the target.
        drafters: By name.
        lengths: Draft lengths.
        target: Fills the sums of distributions, and checks greedy texts.
        vocab_size: The largest vocabulary among the models, for the size of batches.
        seed: With the request it decides what is kept of sampled texts.
        progress: Called with the number of response tokens of each finished batch.
    """
    for batch in batches(texts, vocab_size):
        p_scores = None if target is None else _processed(target.scores(batch), batch)
        ps: Sequence[Tensor | None] = p_scores or [None] * len(batch)
        departures = [_departure(text, p) for text, p in zip(batch, ps, strict=True)]
        for name, drafter in drafters.items():
            proposed = drafter.along(batch, p_scores, seed)
            for text, proposals, p, departure in zip(batch, proposed, ps, departures, strict=True):
                for length in lengths:
                    yield ReplayedText(
                        text=text,
                        drafter=name,
                        num_speculative_tokens=length,
                        counters=_counted(text, proposals, drafter.max_length, length, p),
                        departure=departure,
                    )
        progress(sum(len(text.response) for text in batch))


def _processed(scores: list[Tensor], batch: Sequence[KnownText]) -> list[Tensor]:
    """As they were chosen or drawn from: unnormalised for greedy texts, else `log p`."""
    wide = [each if each.dtype == torch.float64 else each.float() for each in scores]
    return [
        p if text.temperature == 0 else log_distribution(p, config_of(text))
        for p, text in zip(wide, batch, strict=True)
    ]


def _departure(text: KnownText, p: Tensor | None) -> Departure | None:
    if p is None:
        return None
    response = torch.tensor(text.response, device=p.device)
    chosen = p.gather(1, response[:, None])[:, 0]
    if text.temperature == 0:
        wrong = most_likely(p) != response
        distance = (p.amax(1) - chosen) / p.std(1).clamp(min=1e-6)
        wrong &= distance > TIE
    else:
        distance = -chosen
        wrong = chosen == -torch.inf
    places = torch.nonzero(wrong)[:, 0].tolist()
    if not places:
        return None
    return Departure(request_id=text.request_id, place=places[0], below=float(distance[places[0]]))


def _counted(
    text: KnownText, proposals: Proposals, max_length: int, length: int, p: Tensor | None
) -> RequestCounters:
    steps = steps_of(
        len(text.response),
        proposals.agreeing,
        num_speculative_tokens=length,
        max_new_tokens=text.max_new_tokens,
        num_prompt_tokens=len(text.prompt),
        max_length=max_length,
    )
    counters = RequestCounters(
        drafted_per_step=steps.drafted,
        accepted_per_step=steps.accepted,
        num_examined=len(steps.examined_places),
    )
    if p is not None and steps.examined_places:
        examined = p[steps.examined_places]
        if proposals.scores is None:  # all of q is on the drafted token
            drafted = [proposals.drafted_at[place] for place in steps.examined_places]
            q = torch.full_like(examined, -torch.inf)
            q.scatter_(1, torch.tensor(drafted, device=q.device)[:, None], 0.0)
        else:
            q = proposals.scores[steps.examined_places].to(p.dtype)
        add_divergences([counters] * len(examined), examined, q)
    return counters
