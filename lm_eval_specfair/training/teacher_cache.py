"""The target's distributions on disk: its k most likely tokens and the mass of the rest.

Outcomes are then k tokens and one bucket for all others. Lumping outcomes together can only lower
a divergence (data processing), so KL and TV are underestimated; `TeacherRecord` says by how much.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import SplitModel
from lm_eval_specfair.training.losses import default_chunk

CACHE_FILE, RECORD_FILE = "teacher_cache.safetensors", "teacher_cache.json"


class TeacherRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a teacher cache was recorded of (`teacher_cache.json`)."""

    top_k: int  # tokens kept per position
    kl: float  # of the drafter at the start, nats per token of the probe split
    kl_seen: float  # what the cache sees of it
    rows: str  # digest of the rows, in order
    num_parameters: int  # the target's
    target: str | None = None
    target_weights: str | None = None  # digest
    quantize_target: str | None = None


class CachedTarget:
    """The target's side of some positions, from the cache.

    Its most likely `ids`, shape (positions, k), and the log p of each and of all others.
    """

    def __init__(self, ids: Tensor, logprobs: Tensor, vocab_size: int) -> None:
        self._ids, self._logprobs, self._vocab_size = ids, logprobs, vocab_size

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over k + 1 outcomes, shape (positions, k + 1)."""
        # Ids that the target lacks are left out, as where it is run.
        log_q = drafter_scores[:, : self._vocab_size].log_softmax(-1)
        ids = self._ids[chunk]
        return self._logprobs[chunk].to(log_q.dtype), _lumped(log_q, ids)


def _lumped(logprobs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of some ids, and last of all others, shape (positions, k + 1)."""
    rest = logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, ids), rest], -1)


@torch.no_grad()
def cache_of(
    target: SplitModel, rows: Sequence[Row], k: int, micro_rows: int, *, vocab_size: int
) -> dict[str, Tensor]:
    """Let the target read rows once, `micro_rows` together; `vocab_size` is the drafter's.

    Returns:
        `ids` (int32, shape (positions, k)) and `logprobs` (fp32, shape (positions, k + 1)) at all
        learnt positions of the rows, and `vocab_size`, the ids that both models have; others are
        left out.

    Raises:
        ConfigError: If k is not below the size of the vocabulary.
    """
    shared = shared_vocabulary(k, vocab_size, target.vocab_size)
    size = default_chunk(target.vocab_size, target.model.device)
    ids, logprobs = [], []
    for first in range(0, len(rows), micro_rows):
        tokens, counted = collate(rows[first : first + micro_rows], target.model.device)
        live = target.read(tokens, counted)
        for start in range(0, int(counted.sum()), size):
            log_p = live.scores(slice(start, start + size))[:, :shared].log_softmax(-1)
            top = log_p.topk(k, dim=-1).indices
            ids.append(top.int().cpu())
            logprobs.append(_lumped(log_p, top).float().cpu())
    tensors = {"ids": torch.cat(ids), "logprobs": torch.cat(logprobs)}
    return tensors | {"vocab_size": torch.tensor(shared)}


def read_record(folder: Path) -> TeacherRecord | None:
    """What a folder has recorded; None if nothing is.

    Raises:
        ConfigError: If it is damaged.
    """
    if not (folder / CACHE_FILE).exists():
        return None
    try:
        return msgspec.json.decode((folder / RECORD_FILE).read_bytes(), type=TeacherRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{folder} is not a teacher cache ({error}); remove it") from error


class RecordedTeacher:
    """A teacher that does not run: each row's side comes from what `cache_of` made of the rows."""

    def __init__(
        self, tensors: Mapping[str, Tensor], rows: Sequence[Row], record: TeacherRecord
    ) -> None:
        self.record, self.num_parameters = record, record.num_parameters
        self._ids, self._logprobs = tensors["ids"], tensors["logprobs"]
        self._vocab_size = int(tensors["vocab_size"])
        ends = np.cumsum([row.num_learnt for row in rows]).tolist()
        self._places = {
            id(row): slice(end - row.num_learnt, end) for row, end in zip(rows, ends, strict=True)
        }

    def read(self, tokens: Tensor, counted: Tensor, rows: Sequence[Row] = ()) -> CachedTarget:
        places = [self._places[id(row)] for row in rows]
        ids = torch.cat([self._ids[place] for place in places]).long()
        logprobs = torch.cat([self._logprobs[place] for place in places])
        return CachedTarget(ids.to(tokens.device), logprobs.to(tokens.device), self._vocab_size)


def shared_vocabulary(k: int, drafter_size: int, target_size: int) -> int:
    """Ids that both models have, of which a cache keeps the k most likely.

    Raises:
        ConfigError: If k is not below their number.
    """
    shared = min(drafter_size, target_size)
    if k >= shared:
        raise ConfigError(f"cache_top_k must be below the vocabulary's {shared} tokens, got {k}")
    return shared


def digest_of(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.first} {len(row.tokens)}\0".encode())
        digest.update(row.tokens.tobytes())
    return digest.hexdigest()
