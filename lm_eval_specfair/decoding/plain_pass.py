"""The target's own plain pass over a finished text: no cache, no batch, nothing of this engine.

It tells whether greedy tokens are what the model itself would choose, up to ties: the engine's
passes have other shapes, so that two scores that are nearly equal may change places by rounding.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

NUM_DISTURBED = 3
"""Passes with other roundings from which the noise of scores is told."""
# How much larger than the noise of one score a margin may be to count as a tie: both scores err,
# and so they do in the engine's own pass.
TIE_FACTOR = 1.5
# Products in these types are summed in the type itself, not in a wider one, and round that much
# more than their results do.
_SUMMED_IN_TYPE = {torch.float32: 6.0, torch.float64: 6.0}


@dataclass(frozen=True, slots=True)
class GreedyCheck:
    """A greedy text beside the target's own pass.

    Attributes:
        num_tokens: Of the text.
        num_ties: Tokens that are not the most likely, but by no more than the type rounds.
        differing: Places in the text of those that are further off.
    """

    num_tokens: int
    num_ties: int
    differing: list[int]


@torch.inference_mode()
def own_scores(model: PreTrainedModel, tokens: Sequence[int], num_last: int) -> Tensor:
    """The model's scores after each of the last tokens, shape (num_last, vocab), at least fp32."""
    kept = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept = {"logits_to_keep": num_last}
    inputs = torch.tensor([list(tokens)], device=model.device)
    scores: Tensor = model(input_ids=inputs, use_cache=False, **kept).logits[0, -num_last:]
    return scores if scores.dtype == torch.float64 else scores.float()


def rounding_bound(model: PreTrainedModel, tokens: Sequence[int], scores: Tensor) -> Tensor:
    """How far apart two scores may be and still change places by rounding, shape (num_last,).

    Every module's output is disturbed by about as much as its type rounds, in some passes over the
    same tokens; `TIE_FACTOR` times the largest change of a score at a place is the bound there. So
    it knows what this model does with roundings, over this text. Real errors of margins (against a
    wider type; models of 2 to 30 layers in fp32, bf16 and fp16) are at most 0.7 of it.

    Args:
        model: That made the scores.
        tokens: That it read.
        scores: Those after the last of them, shape (num_last, vocab).

    Source:
        Parker 1997, Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic,
        UCLA technical report CSD-970002.
    """
    noise = torch.zeros(len(scores), dtype=scores.dtype, device=scores.device)
    for seed in range(NUM_DISTURBED):
        with _other_roundings(model, seed):
            disturbed = own_scores(model, tokens, len(scores))
        noise = torch.maximum(noise, (disturbed - scores).abs().amax(-1))
    return TIE_FACTOR * noise


@contextmanager
def _other_roundings(model: PreTrainedModel, seed: int) -> Iterator[None]:
    generator = torch.Generator(model.device).manual_seed(seed)

    def disturb(value: Any) -> Any:
        if isinstance(value, tuple) and value:
            return (disturb(value[0]), *value[1:])
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return value
        wide = value if value.dtype in _SUMMED_IN_TYPE else value.float()
        unit = torch.finfo(value.dtype).eps * _SUMMED_IN_TYPE.get(value.dtype, 1.0)
        chance = torch.rand(value.shape, generator=generator, dtype=wide.dtype, device=value.device)
        return torch.addcmul(wide, wide, chance.mul_(2).sub_(1), value=unit).to(value.dtype)

    hooks = [
        module.register_forward_hook(lambda _module, _given, output: disturb(output))
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_greedy(model: PreTrainedModel, prompt: Sequence[int], text: Sequence[int]) -> GreedyCheck:
    """Hold each token of a greedy text, at least one, against the model's own pass."""
    tokens = [*prompt, *text[:-1]]
    scores = own_scores(model, tokens, len(text))
    chosen = scores.gather(1, torch.tensor(text, device=scores.device)[:, None])[:, 0]
    margins = scores.amax(-1) - chosen
    is_equal = margins == 0  # a score that is not a number is not, and no tie
    if bool(is_equal.all()):
        return GreedyCheck(len(text), 0, [])
    is_tie = ~is_equal & (margins <= rounding_bound(model, tokens, scores))
    wrong = (~is_equal & ~is_tie).nonzero()[:, 0].tolist()
    return GreedyCheck(len(text), int(is_tie.sum()), wrong)


def margin_after(
    model: PreTrainedModel, tokens: Sequence[int], choices: Sequence[int]
) -> tuple[float, float]:
    """How far the least likely of some next tokens is below the best, and `rounding_bound`."""
    scores = own_scores(model, tokens, 1)
    margin = scores.amax() - scores[0, list(choices)].amin()
    return float(margin), float(rounding_bound(model, tokens, scores))
