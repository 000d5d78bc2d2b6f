"""Replay: every drafter and draft length on every text, one pass of each model over each batch.

The target, where there is one, reads a batch once for all drafters. Scores are made and reduced to
sums chunk by chunk; only one chunk's are ever held.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_eval_specfair.decoding.acceptance import log_distribution, most_likely
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.divergence import TargetDistribution
from lm_eval_specfair.replays.drafters.replayed_drafter import (
    Expected,
    Positions,
    ReplayedDrafter,
    config_of,
    uniforms_of,
)
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import Reading, TextReader
from lm_eval_specfair.replays.passes.text_batches import batches

# Within this much of the best score, relative to the scores' spread, fp32 rounding may decide.
TIE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """Where a greedy text is not the target's own.

    Attributes:
        place: The first such token of the response, from 0.
        below: How far its score is below the best one, in standard deviations of the scores; None
            for a token of a sampled text that has no chance at all.
    """

    request_id: str
    place: int
    below: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedText:
    """What one drafter with one draft length did on one text; its counters have no times.

    `departure` is None too where the text was not held against the target.
    """

    text: KnownText
    drafter: str
    num_speculative_tokens: int
    counters: RequestCounters
    expected: Expected | None
    departure: Departure | None


def replay_texts(
    texts: Sequence[KnownText],
    drafters: Mapping[str, ReplayedDrafter],
    lengths: Sequence[int],
    *,
    target: TextReader | None = None,
    seed: int = 0,
    share_prefixes: bool = True,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Iterator[ReplayedText]:
    """Take the steps of each text again, with each drafter and draft length, batch by batch.

    Args:
        texts: Finished; sampled ones need the target.
        drafters: By name.
        lengths: Draft lengths.
        target: Fills the sums of distributions, and checks greedy texts.
        seed: With the request it decides what is kept of sampled texts.
        share_prefixes: Whether a prefix that texts share is read once.
        progress: Called with the number of response tokens of each finished batch.
    """
    readers = [target, *(drafter.reader for drafter in drafters.values())]
    present = [reader for reader in readers if reader is not None]
    for together in batches(texts, present, share=share_prefixes):
        batch = together.texts
        measures = target is not None
        along = {
            name: drafter.along(together, lengths, measures=measures)
            for name, drafter in drafters.items()
        }
        below = np.zeros(sum(len(text.response) for text in batch))
        read = None if target is None else target.read(together, to_its_end=True)
        width = min((reader.positions_at_once for reader in present), default=len(below))
        for positions, distance in _chunks(batch, read, width, seed):
            for each in along.values():
                each.look(positions)
            below[positions.places] = distance
        begin = 0
        for number, text in enumerate(batch):
            departure = _departure(text, below[begin : begin + len(text.response)])
            begin += len(text.response)
            for name, each in along.items():
                for length in lengths:
                    yield ReplayedText(
                        text=text,
                        drafter=name,
                        num_speculative_tokens=length,
                        counters=each.counters(number, length),
                        expected=each.expected(number, length),
                        departure=departure,
                    )
        progress(len(below))


def _chunks(
    batch: Sequence[KnownText], read: Reading | None, width: int, seed: int
) -> Iterator[tuple[Positions, np.ndarray]]:
    """A batch's positions, some at a time, with how far each token is from the target's choice."""
    config = config_of(batch[0])
    all_tokens = torch.tensor([token for text in batch for token in text.response])
    all_uniforms = None if config.greedy else uniforms_of(batch, seed)
    for start in range(0, len(all_tokens), width):
        places = slice(start, min(start + width, len(all_tokens)))
        tokens = all_tokens[places]
        uniforms = None if all_uniforms is None else all_uniforms[:, places]
        target, uncut, distance = None, None, np.zeros(len(tokens))
        if read is not None:
            with torch.inference_mode():
                scores = read.scores(places)
                tokens = tokens.to(scores.device)
                if uniforms is None:
                    distance = _below_the_best(scores, tokens)
                    target = TargetDistribution(scores)
                else:
                    uniforms = uniforms.to(scores.device)
                    target = TargetDistribution(log_distribution(scores, config))
                    if config.truncates:
                        uncut = TargetDistribution(scores / config.temperature)
                    chosen = target.scores.gather(1, tokens[:, None])[:, 0]
                    distance = np.where((chosen == -torch.inf).cpu().numpy(), np.inf, 0.0)
        yield Positions(places, tokens, config, uniforms, target, uncut), distance


def _below_the_best(scores: Tensor, tokens: Tensor) -> np.ndarray:
    """How far a token is below the best, in standard deviations of the scores; 0 within a tie."""
    distance = torch.zeros(len(tokens), dtype=torch.float64)
    wrong = torch.nonzero(most_likely(scores) != tokens)[:, 0]
    if len(wrong):
        rows = scores[wrong]
        chosen = rows.gather(1, tokens[wrong, None])[:, 0]
        far = (rows.amax(1) - chosen) / rows.std(1).clamp(min=1e-6)
        distance[wrong.cpu()] = torch.where(far > TIE, far, 0.0).double().cpu()
    return distance.numpy()


def _departure(text: KnownText, below: np.ndarray) -> Departure | None:
    places = np.nonzero(below)[0]
    if not len(places):
        return None
    place = int(places[0])
    distance = float(below[place])
    return Departure(
        request_id=text.request_id, place=place, below=None if np.isinf(distance) else distance
    )
