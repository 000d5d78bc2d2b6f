"""Drafts of parts of a batch, put together for the whole of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_specfair.decoding.drafters import Draft

Part = tuple[Sequence[int], Draft]
"""Rows of the batch, and the draft whose rows these are, in this order."""


def merged(parts: Sequence[Part], rows: int, *, vocab_size: int, device: torch.device) -> Draft:
    """One draft of all rows; those of no part draft nothing.

    Scores of a part without distributions are all on the token that it drafted, where another part
    has some.
    """
    width = max(draft.tokens.shape[1] for _, draft in parts)
    tokens = torch.zeros((rows, width), dtype=torch.long, device=device)
    num_drafted = [0] * rows
    for members, draft in parts:
        tokens[members, : draft.tokens.shape[1]] = draft.tokens
        for row, number in zip(members, draft.num_drafted, strict=True):
            num_drafted[row] = number
    scores = _scores([(members, draft.scores) for members, draft in parts], tokens, vocab_size)
    raw = [
        (members, None if draft.raw_scores is None else torch.stack(list(draft.raw_scores), 1))
        for members, draft in parts
    ]
    raw_scores = _scores(raw, tokens, vocab_size)
    return Draft(tokens, num_drafted, scores, None if raw_scores is None else raw_scores.unbind(1))


def _scores(
    parts: Sequence[tuple[Sequence[int], Tensor | None]], tokens: Tensor, vocab_size: int
) -> Tensor | None:
    """The scores of all rows, (rows, width, vocab); None where no part has any."""
    known = [(members, scores) for members, scores in parts if scores is not None]
    if not known:
        return None
    found = known[0][1].new_full((*tokens.shape, vocab_size), -torch.inf)
    found.scatter_(2, tokens[..., None], 0.0)
    for members, scores in known:
        found[members, : scores.shape[1]] = scores
    return found


def of_rows(draft: Draft, rows: Sequence[int]) -> Draft:
    """Some rows of a draft."""
    raw = draft.raw_scores
    index = torch.tensor(rows, device=draft.tokens.device)
    return Draft(
        draft.tokens[index],
        [draft.num_drafted[row] for row in rows],
        None if draft.scores is None else draft.scores[index],
        None if raw is None else [scores[index] for scores in raw],
    )


def as_points(draft: Draft, vocab_size: int) -> Draft:
    """A draft without distributions as one whose distributions are all on its tokens."""
    scores = torch.full(
        (*draft.tokens.shape, vocab_size), -torch.inf, device=draft.tokens.device
    ).scatter_(2, draft.tokens[..., None], 0.0)
    return Draft(draft.tokens, draft.num_drafted, scores, scores.unbind(1))
