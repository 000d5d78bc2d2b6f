"""The target's distributions, kept as its k likeliest tokens and the mass of the rest.

Outcomes are then k tokens and one bucket for all others. Lumping outcomes together can only lower
a divergence (data processing), so KL and TV are underestimated; `cache_error` says by how much.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm_eval_specfair import divergence
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import SplitModel, live_target
from lm_eval_specfair.training.losses import TargetScores, default_chunk


class CachedTarget:
    """The target's side of some positions, from the cache."""

    def __init__(self, ids: Tensor, logprobs: Tensor, vocab_size: int) -> None:
        """Take up positions.

        Args:
            ids: Likeliest tokens, shape (positions, k).
            logprobs: Their log p, and last that of all others, shape (positions, k + 1).
            vocab_size: Ids that both models have.
        """
        self._ids, self._logprobs, self._vocab_size = ids, logprobs, vocab_size

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over k + 1 outcomes, shape (positions, k + 1)."""
        # Ids that the target lacks are left out, as where it is run.
        log_q = drafter_scores[:, : self._vocab_size].log_softmax(-1)
        ids = self._ids[chunk]
        rest = log_q.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        lumped = torch.cat([log_q.gather(-1, ids), rest], -1)
        return self._logprobs[chunk].to(log_q.dtype), lumped


class Cache:
    """Distributions at all learnt positions of some rows."""

    def __init__(self, ids: Tensor, logprobs: Tensor, starts: Tensor, vocab_size: Tensor) -> None:
        """Wrap what `build` made.

        Args:
            ids: Shape (positions, k), int32.
            logprobs: Shape (positions, k + 1), fp32.
            starts: First position of each row, and the end of the last, shape (rows + 1,).
            vocab_size: Ids that both models have, shape ().
        """
        self._ids, self._logprobs, self._starts = ids, logprobs, starts
        self._vocab_size = vocab_size

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        target: SplitModel,
        rows: Sequence[Row],
        k: int,
        micro_rows: int,
        *,
        vocab_size: int | None = None,
    ) -> "Cache":
        """Let the target read rows once.

        Args:
            target: The target.
            rows: What it reads.
            k: Tokens kept a position.
            micro_rows: Rows read together.
            vocab_size: The drafter's; ids that only one model has are left out. The target's by
                default.

        Raises:
            ConfigError: If k is not below the size of the vocabulary.
        """
        shared = shared_vocabulary(k, vocab_size or target.vocab_size, target.vocab_size)
        ids, logprobs = [], []
        for first in range(0, len(rows), micro_rows):
            tokens, counted = collate(rows[first : first + micro_rows], target.model.device)
            live = live_target(target, tokens, counted)
            for piece in _chunks(int(counted.sum()), target):
                log_p = live.scores(piece)[:, :shared].log_softmax(-1)
                top = log_p.topk(k, dim=-1)
                rest = log_p.scatter(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
                ids.append(top.indices.int().cpu())
                logprobs.append(torch.cat([top.values, rest], -1).float().cpu())
        starts = torch.tensor([0, *np.cumsum([row.num_learnt for row in rows]).tolist()])
        return cls(torch.cat(ids), torch.cat(logprobs), starts, torch.tensor(shared))

    def of_rows(self, numbers: Sequence[int], device: torch.device) -> CachedTarget:
        """The target's side of rows, in their order."""
        pieces = [slice(int(self._starts[n]), int(self._starts[n + 1])) for n in numbers]
        ids = torch.cat([self._ids[piece] for piece in pieces]).long()
        logprobs = torch.cat([self._logprobs[piece] for piece in pieces])
        return CachedTarget(ids.to(device), logprobs.to(device), int(self._vocab_size))

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        tensors = {
            "ids": self._ids,
            "logprobs": self._logprobs,
            "starts": self._starts,
            "vocab_size": self._vocab_size,
        }
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "Cache":
        """Read what `save` wrote."""
        return cls(**load_file(path))


@torch.no_grad()
def shared_vocabulary(k: int, drafter_size: int, target_size: int) -> int:
    """Ids that both models have, of which a cache keeps the k likeliest.

    Raises:
        ConfigError: If k is not below their number.
    """
    shared = min(drafter_size, target_size)
    if k >= shared:
        raise ConfigError(f"cache_top_k must be below the vocabulary's {shared} tokens, got {k}")
    return shared


def cache_error(
    target: SplitModel, drafter: SplitModel, rows: Sequence[Row], k: int, micro_rows: int
) -> tuple[float, float]:
    """What lumping costs on some rows: mean KL in full, and over k + 1 outcomes, nats per token."""
    sums = torch.zeros(2, dtype=torch.float64)
    cache = Cache.build(target, rows, k, micro_rows, vocab_size=drafter.vocab_size)
    for first in range(0, len(rows), micro_rows):
        tokens, counted = collate(rows[first : first + micro_rows], target.model.device)
        numbers = range(first, min(first + micro_rows, len(rows)))
        sides: tuple[TargetScores, ...] = (
            live_target(target, tokens, counted),
            cache.of_rows(numbers, tokens.device),
        )
        theirs = live_target(drafter, tokens, counted)
        for piece in _chunks(int(counted.sum()), drafter):
            scores = theirs.scores(piece)
            for place, side in enumerate(sides):
                sums[place] += divergence.kl(*side.outcomes(piece, scores)).double().sum().cpu()
    total = sum(row.num_learnt for row in rows)
    return float(sums[0] / total), float(sums[1] / total)


def _chunks(num_positions: int, model: SplitModel) -> Iterator[slice]:
    size = default_chunk(model.vocab_size, model.model.device)
    for first in range(0, num_positions, size):
        yield slice(first, first + size)
