"""The trial of a loaded model: short texts, with and without the ragged cache, must score alike.

An architecture that nobody thought of is refused here rather than decoded wrongly.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lm_eval_specfair.decoding.cache import cache_argument
from lm_eval_specfair.decoding.families.cut_head import draft_ids
from lm_eval_specfair.decoding.families.longrope import LongRope, longrope_border
from lm_eval_specfair.decoding.families.refusals import INSTEAD, MIN_POSITIONS
from lm_eval_specfair.decoding.families.short_lengths import (
    named_lengths,
    shortened,
    windows_among,
)
from lm_eval_specfair.errors import ConfigError

# Largest difference of scores that rounding explains, relative to their standard deviation.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}


class RowScorer(Protocol):
    """What reads prompts into rows and scores blocks after them: `CausalModel`."""

    def read_prompts(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Fill rows."""

    def score(self, tokens: Tensor) -> Tensor:
        """Scores after each token of a block."""

    def reset(self) -> None:
        """Forget all rows."""


# What a model may raise that takes no mask, cache or positions as it is given them.
MISFITS = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
)


def in_words(error: Exception) -> str:
    """An error in a few words."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]:.120}" if lines else type(error).__name__


BLOCK = 3  # tokens that are scored after each text's beginning


@torch.inference_mode()
def check_exactness(rows: RowScorer, model: PreTrainedModel, *, role: str, name: str) -> None:
    """Score short texts with and without the cache, with a roll-back between.

    Where the configuration names lengths (windows, chunks, ...), once more with these made short.

    Raises:
        ConfigError: If scores differ, cannot be computed, or a length cannot be reached.
    """
    config = model.config.get_text_config(decoder=True)
    try:
        expected = _compare(rows, model)
        lengths = named_lengths(config)
        if not lengths:
            return
        with shortened(model, lengths):
            short = _compare(rows, model)
    except _DamagedError as error:
        raise ConfigError(
            f"{role} {name} scores a short text with NaN or infinite numbers: its weights are "
            "damaged, or too large for their type; load it with dtype=float32, or copy it anew."
        ) from error
    except _DifferentError as error:
        raise ConfigError(
            f"{role} {name}: scores through a rolled-back cache differ from those without one "
            f"by {error}; this model cannot be decoded exactly. {INSTEAD}"
        ) from error
    except MISFITS as error:
        raise ConfigError(
            f"{role} {name} cannot be decoded with a cache of row lengths ({in_words(error)}). "
            f"{INSTEAD}"
        ) from error
    refuse_unreached(lengths, [expected], [short], f"{role} {name}")


def refuse_unreached(
    lengths: dict[str, int], expected: list[Tensor], short: list[Tensor] | None, model: str
) -> None:
    """Raise ConfigError where a window that was made short changed no score."""
    windows = windows_among(lengths)
    if windows and all(map(torch.equal, short or expected, expected)):
        named = ", ".join(f"{key} {value}" for key, value in windows.items())
        raise ConfigError(
            f"{model}: the configuration names {named}, which the trial at loading cannot reach, "
            f"so longer texts might be decoded wrongly. {INSTEAD}"
        )


class _DamagedError(Exception):
    """The model's own scores are NaN or infinite."""


class _DifferentError(Exception):
    """Scores differ, by what is said."""


def _compare(rows: RowScorer, model: PreTrainedModel) -> Tensor:
    """Expected scores of the texts' last tokens, if the ragged cache gives them too."""
    size = min(int(model.config.get_text_config(decoder=True).vocab_size), 97)
    device = model.device
    texts = [[(7 * i + s) % size for i in range(n)] for s, n in ((1, MIN_POSITIONS), (3, 6))]
    expected = torch.stack([_expected(model, text) for text in texts])
    drafted = draft_ids(model)
    if drafted is not None:  # others have -inf on either side
        expected = expected[..., drafted]
    if not bool(expected.isfinite().all()):
        raise _DamagedError
    try:
        rows.read_prompts([0, 1], [text[:-BLOCK] for text in texts])
        rows.score(torch.full((2, BLOCK), 5 % size, device=device))  # rejected as a whole
        blocks = torch.tensor([text[-BLOCK:] for text in texts], device=device)
        ragged = rows.score(blocks).double()
        ragged = ragged if drafted is None else ragged[..., drafted]
    finally:
        rows.reset()
    worst = float((ragged - expected).abs().max())
    spread = float(expected.std()) + 1e-6
    if not worst <= TOLERANCE.get(model.dtype, 0.2) * max(spread, 1.0):
        raise _DifferentError(f"{worst:.3g}")
    return expected


def _expected(model: PreTrainedModel, text: list[int]) -> Tensor:
    """A model's own scores of a text's last tokens, shape (BLOCK, vocab)."""
    tokens = torch.tensor([text], device=model.device)
    if longrope_border(model.config.get_text_config(decoder=True)) is None:
        scores: Tensor = model(input_ids=tokens).logits[0, -BLOCK:].double()
        return scores
    # Scores depend on how long a text was when it was read: as `generate` reads it.
    if LongRope(model).reads_anew:
        ends = range(len(text) - BLOCK + 1, len(text) + 1)
        return torch.stack(
            [model(input_ids=tokens[:, :end], use_cache=False).logits[0, -1] for end in ends]
        ).double()
    given: dict[str, Any] = {"use_cache": True}
    given[cache_argument(model.forward)] = DynamicCache(
        config=model.config.get_text_config(decoder=True)
    )
    first = len(text) - BLOCK + 1
    parts = [tokens[:, :first], *(tokens[:, end : end + 1] for end in range(first, len(text)))]
    return torch.stack([model(input_ids=part, **given).logits[0, -1] for part in parts]).double()
