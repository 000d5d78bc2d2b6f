"""A head and its loss over a batch: steps unrolled from every place, as when it drafts.

A *place* is a token of the text that is predicted; a step of number k predicts it in the chain that
began k places before. All chains of a place learn from the same distribution of the target, which
is computed once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lm_eval_specfair import divergence
from lm_eval_specfair.decoding.families.layer_outputs import LayerOutputs
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import LiveTarget, SplitModel
from lm_eval_specfair.training.losses import (
    MIN_CHUNK,
    LossFunction,
    chunked_loss,
    default_chunk,
)

STEP_DECAY = 0.8
"""What a step weighs beside the one before it: it is reached only where that one's token is kept.

Source:
    Li et al. 2025, EAGLE-3 (arXiv:2503.01840), as trained by its authors' code.
"""


class HeadTarget:
    """The target's side of a batch: features, and scores of the places that count.

    Attributes:
        features: Hidden states of the layers that the head reads, (rows, length, layers * width).
        live: Scores at the counted places, a chunk at a time.
    """

    def __init__(self, features: Tensor, live: LiveTarget) -> None:
        self.features, self.live = features, live

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """As a drafting model learns from it; heads read it through `ChainTarget`."""
        return self.live.outcomes(chunk, drafter_scores)


class HeadTeacher:
    """A frozen target that hands a head its hidden states; they are recomputed for each batch."""

    def __init__(self, target: SplitModel, layers: Sequence[int], *, name: str) -> None:
        self._target = target
        self._outputs = LayerOutputs(target.model, layers, name=name)

    @property
    def num_parameters(self) -> int:
        return self._target.num_parameters

    @property
    def device(self) -> torch.device:
        device: torch.device = self._target.model.device
        return device

    @property
    def scoring(self) -> nn.Linear | None:
        """What scores its last hidden states; None where these are scores already."""
        return self._target.head

    @torch.no_grad()
    def read(self, tokens: Tensor, counted: Tensor, rows: Sequence[Row] = ()) -> HeadTarget:
        """One pass over the batch."""
        with self._outputs.hooked():
            live = self._target.read(tokens, counted, rows)
        return HeadTarget(self._outputs.taken(tokens.device), live)


class ChainTarget:
    """The target's side of all chains of some places, laid out place by place, step by step.

    Probabilities are the target's own, of the drafted tokens alone: where the draft vocabulary
    lacks a part of p, they add up to less than 1, the overlap is what would be accepted, and KL
    weighs a place by the mass that can be drafted at all.
    """

    def __init__(self, live: LiveTarget, num_steps: int, drafted: Tensor | None) -> None:
        """Of `live`; `drafted` are the target's ids of the head's tokens, None for all of them."""
        self._live, self._num_steps, self._drafted = live, num_steps, drafted

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over the drafted tokens; a chunk holds whole places."""
        steps = self._num_steps
        scores = self._live.scores(slice(chunk.start // steps, chunk.stop // steps))
        log_p = scores.to(drafter_scores.device).to(drafter_scores.dtype).log_softmax(-1)
        log_p = (
            log_p[:, : drafter_scores.shape[-1]]
            if self._drafted is None
            else log_p[:, self._drafted]
        )
        return log_p.repeat_interleave(steps, 0), drafter_scores.log_softmax(-1)


def drafted_divergences(target_logprobs: Tensor, drafter_logprobs: Tensor) -> tuple[Tensor, ...]:
    """Overlap, cross-entropy and entropy where p is given for the drafted tokens alone.

    The entropy is that of p with all of its mass among them, times that mass, so that
    cross-entropy less entropy is the KL divergence from there, times the mass, and never negative.
    """
    p, q = target_logprobs.exp(), drafter_logprobs.exp()
    mass = p.sum(-1)
    entropy = divergence.entropy(target_logprobs) + mass * mass.clamp_min(1e-30).log()
    cross = divergence.cross_entropy(target_logprobs, drafter_logprobs)
    return torch.minimum(p, q).sum(-1), cross, entropy


class HeadDistiller(nn.Module):
    """The head and its loss as one module: what accelerate wraps."""

    def __init__(
        self,
        head: Eagle3Head,
        loss_function: LossFunction,
        *,
        num_steps: int,
        step_decay: float = STEP_DECAY,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.drafter = head
        self._loss_function, self._num_steps, self._chunk = loss_function, num_steps, chunk
        self._decay = step_decay

    def forward(
        self, tokens: Tensor, counted: Tensor, position_weights: Tensor, target: HeadTarget
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss of a batch, and what was measured at its counted places.

        A place's loss is the mean over its steps, weighed by `step_decay^k`. What is measured of it
        is the mean over the chain that begins there, each step weighed by the chance that it is
        examined, which is that all before it are kept: overlap, cross-entropy and entropy, shape
        (places, 3), without gradient.
        """
        steps = min(self._num_steps, tokens.shape[1] - 1)
        scored = self.drafter(tokens, target.features, steps)
        places = counted.nonzero()  # (places, 2): row and index of the prediction
        rows, index = places[:, 0], places[:, 1]
        # Step k predicts place i from the entry i - 1 - k, in the chain that begins at i - k.
        begins = index[:, None] - torch.arange(steps, device=index.device)
        entries = begins - 1
        is_chain = (entries >= 0) & counted[rows[:, None], begins.clamp_min(0)]
        by_step = [
            step[rows, entries[:, k].clamp(0, step.shape[1] - 1)] for k, step in enumerate(scored)
        ]
        hidden = torch.stack(by_step, 1).flatten(0, 1)
        decay = torch.tensor(
            [self._decay**k for k in range(steps)],
            dtype=position_weights.dtype,
            device=position_weights.device,
        )
        weights = position_weights[:, None] * (decay / decay.sum()) * is_chain
        head = self.drafter
        drafted = head.target_ids if head.config.is_pruned else None
        per_chunk = self._chunk or default_chunk(head.config.draft_vocab_size, hidden.device)
        loss, measured = chunked_loss(
            hidden,
            head.lm_head.weight,
            head.lm_head.bias,
            weights.flatten(),
            ChainTarget(target.live, steps, drafted),
            self._loss_function,
            chunk=max(MIN_CHUNK, per_chunk // steps) * steps,
            measure=drafted_divergences,
        )
        by_place = measured.view(len(places), steps, 3)
        return loss, _of_chains(by_place, is_chain, places, counted)


@torch.no_grad()
def _of_chains(by_step: Tensor, is_chain: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """What each chain measured, at the place where it begins, shape (places, 3).

    `by_step` has it by the place that a step predicts, shape (places, steps, 3).
    """
    number = torch.full(counted.shape, -1, device=counted.device)
    number[places[:, 0], places[:, 1]] = torch.arange(len(places), device=counted.device)
    rows, index = places[:, 0], places[:, 1]
    reached = by_step.new_ones(len(places))
    total, examined = torch.zeros_like(by_step[:, 0]), torch.zeros_like(reached)
    for step in range(by_step.shape[1]):
        later = index + step
        inside = later < counted.shape[1]
        at = torch.where(inside, number[rows, later.clamp_max(counted.shape[1] - 1)], -1)
        has = (at >= 0) & is_chain[at.clamp_min(0), step]
        found = by_step[at.clamp_min(0), step]
        weight = torch.where(has, reached, torch.zeros_like(reached))
        total += weight[:, None] * found
        examined += weight
        reached = weight * found[:, 0]
    return total / examined.clamp_min(1e-30)[:, None]
