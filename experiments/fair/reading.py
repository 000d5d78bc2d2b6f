"""What a drafter would have accepted along held-out texts, which both models only read.

Decoding 16 prompts a language leaves a worst language known to 8% at best: which text is written,
and which drafts are drawn, is chance. Read texts are the same for all drafters, and at every
position the chance of acceptance is known, so that no draw is needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from comparison import COUNTS
from texts import corpus_rows
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.divergence import kl, overlap

LENGTH, CONTEXT = 40, 8
"""Tokens of a row, and those at its beginning that are only read."""
_AT_ONCE = 16


def heldout_rows(
    corpus: Path, language: str, tokenizer: PreTrainedTokenizerBase, number: int
) -> torch.Tensor:
    """Rows of held-out files, spread evenly over them, shape (number, LENGTH).

    Raises:
        ValueError: If the files have fewer.
    """
    rows = [
        ids[start : start + LENGTH]
        for _, text in corpus_rows(corpus, "heldout", language)
        for ids in [tokenizer.encode(text, add_special_tokens=False, verbose=False)]
        for start in range(0, len(ids) - LENGTH + 1, LENGTH)
    ]
    if len(rows) < number:
        raise ValueError(f"{language}: expected {number} rows of held-out text, got {len(rows)}")
    spread = np.linspace(0, len(rows) - 1, number).round().astype(int)
    return torch.tensor([rows[place] for place in spread])


@torch.no_grad()
def counts_of_rows(
    target: PreTrainedModel,
    drafter: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: torch.Tensor,
    num_speculative_tokens: int,
) -> npt.NDArray[np.float64]:
    """Expected counts if the target had written each row, sampling, shape (rows, len(COUNTS)).

    A step may begin at any position; it accepts its first k drafts with the product of their
    overlaps. So `accepted` is a sum over positions and k of such products.
    """
    found = []
    for part in rows.split(_AT_ONCE):
        p, q = (model(part).logits[:, CONTEXT:-1].log_softmax(-1) for model in (target, drafter))
        found.append(_counts(overlap(p, q), kl(p, q), num_speculative_tokens))
    counts = np.concatenate(found)
    texts = tokenizer.batch_decode(rows[:, CONTEXT + 1 :])
    read_bytes = np.array([len(text.encode()) for text in texts])
    # Of what the steps emit, at the row's own bytes a token.
    places = [COUNTS.index(name) for name in ("bytes", "tokens", "positions")]
    counts[:, places[0]] = counts[:, places[1]] * read_bytes / counts[:, places[2]]
    return counts


def _counts(
    overlaps: torch.Tensor, divergences: torch.Tensor, num_speculative_tokens: int
) -> npt.NDArray[np.float64]:
    positions = overlaps.shape[1]
    steps = positions - num_speculative_tokens + 1
    chance, accepted = torch.ones(len(overlaps), steps), torch.zeros(len(overlaps))
    for place in range(num_speculative_tokens):
        chance = chance * overlaps[:, place : place + steps]
        accepted += chance.sum(1)
    of: dict[str, torch.Tensor | float] = {
        "steps": float(steps),
        "accepted": accepted,
        "overlap": overlaps.sum(1),
        "kl": divergences.sum(1),
        "positions": float(positions),
        "tokens": steps + accepted,
        "bytes": 0.0,
    }
    columns: Sequence[torch.Tensor] = [torch.as_tensor(of[name]) for name in COUNTS]
    return torch.stack(torch.broadcast_tensors(*columns), -1).double().numpy().copy()
