"""The trial of a loaded model: short texts, with and without the ragged cache, must score alike.

An architecture that nobody thought of is refused here rather than decoded wrongly.
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.refusals import INSTEAD, MIN_POSITIONS
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


@torch.inference_mode()
def check_exactness(rows: RowScorer, model: PreTrainedModel, *, role: str, name: str) -> None:
    """Score two short texts with and without the cache, with a roll-back between.

    Raises:
        ConfigError: If the scores differ, or cannot be computed.
    """
    size = min(int(model.config.get_text_config(decoder=True).vocab_size), 97)
    device = model.device
    long, short = [[(7 * i + s) % size for i in range(n)] for s, n in ((1, MIN_POSITIONS), (3, 6))]
    plain = [
        model(input_ids=torch.tensor([text], device=device)).logits[0, -3:].double()
        for text in (long, short)
    ]
    try:
        rows.read_prompts([0, 1], [long[:-3], short[:-3]])
        rows.score(torch.full((2, 3), 5 % size, device=device))  # rejected as a whole
        blocks = torch.tensor([long[-3:], short[-3:]], device=device)
        ragged = rows.score(blocks).double()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"{role} {name} cannot be decoded with a cache of row lengths "
            f"({type(error).__name__}: {str(error).splitlines()[0]:.120}). {INSTEAD}"
        ) from error
    finally:
        rows.reset()
    expected = torch.stack(plain)
    worst = float((ragged - expected).abs().max())
    spread = float(expected.std()) + 1e-6
    if not worst <= TOLERANCE.get(model.dtype, 0.2) * max(spread, 1.0):
        raise ConfigError(
            f"{role} {name}: scores through a rolled-back cache differ from "
            f"those without one by {worst:.3g}; this model cannot be decoded exactly. {INSTEAD}"
        )
