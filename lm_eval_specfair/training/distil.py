"""Target and drafter over a batch: hidden states whole, scores in chunks.

Knows nothing about groups: positions come with their weights.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.losses import (
    LossFunction,
    TargetScores,
    autocast_once,
    chunked_loss,
)

logger = logging.getLogger(__name__)

TRIAL_TOKENS = 8
# The same product over the same states: half precision is allowed its last digit, no soft cap.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_TOLERANCE = 8e-3


class Teacher(Protocol):
    """What the drafter learns from: a target that runs, or what was recorded of it."""

    @property
    def num_parameters(self) -> int: ...

    def read(self, tokens: Tensor, counted: Tensor, rows: Sequence[Row] = ()) -> TargetScores:
        """The target's side of a batch, with tokens and counted predictions as `collate` gives."""


class SplitModel:
    """A causal LM taken apart into what makes hidden states, and the head that scores them.

    Where a model does more than a matrix product after its last hidden states (a soft cap, a
    scale), its own scores are used instead, which costs memory by tokens x vocabulary. A trial on
    a few tokens tells; `head` is None then, and `hidden` gives scores.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.vocab_size = int(model.config.get_text_config(decoder=True).vocab_size)
        self.head: nn.Linear | None = self._trial()
        if self.head is None:
            logger.warning(
                "%s: its scores are not a plain product of its last hidden states, so they are "
                "kept whole; memory grows by tokens x vocabulary",
                type(model).__name__,
            )

    @property
    def num_parameters(self) -> int:
        """Not by tensors: a quantized one holds several parameters in place of one."""
        return int(self.model.num_parameters())

    def hidden(self, tokens: Tensor, counted: Tensor) -> Tensor:
        """Last hidden states (or scores) of counted positions, shape (positions, width).

        Tokens are padded at the end, which has no effect on what comes before in a causal model.
        """
        tokens = tokens.to(self.model.device)
        if self.head is None:
            states: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        else:
            states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        # A target that is spread over devices ends on another one than it began on.
        return states[:, :-1][counted.to(states.device)]

    @torch.no_grad()
    def read(self, tokens: Tensor, counted: Tensor, rows: Sequence[Row] = ()) -> "LiveTarget":
        return LiveTarget(self.head, self.hidden(tokens, counted))

    @torch.no_grad()
    def _trial(self) -> nn.Linear | None:
        layer = self.model.get_output_embeddings()
        # An adapter on the head, or a quantized one, is more than its weight.
        if type(layer) is not nn.Linear or self.model.base_model is self.model:
            return None
        was_training = self.model.training
        self.model.eval()
        tokens = torch.arange(TRIAL_TOKENS, device=self.model.device)[None] % self.vocab_size
        try:
            whole = self.model(input_ids=tokens, use_cache=False).logits
            states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            apart = layer(states).to(whole.device)
        except (TypeError, AttributeError, RuntimeError):
            return None
        finally:
            self.model.train(was_training)
        tolerance = TOLERANCE.get(whole.dtype, HALF_TOLERANCE)
        is_product = whole.shape == apart.shape and torch.allclose(
            whole, apart, rtol=tolerance, atol=tolerance * float(whole.abs().max())
        )
        return layer if is_product else None


class LiveTarget:
    """The target's scores from hidden states, shape (positions, width), a chunk at a time.

    Without a head, these are scores already.
    """

    def __init__(self, head: Callable[[Tensor], Tensor] | None, hidden: Tensor) -> None:
        if (
            isinstance(head, nn.Linear)
            and (weight := autocast_once(head.weight)) is not head.weight
        ):
            head = functools.partial(functional.linear, weight=weight, bias=head.bias)
        self._head, self._hidden = head, hidden

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over the ids that both models have.

        Models of one tokenizer pad their vocabularies differently; no text holds a padded id.
        """
        scores = self.scores(chunk)
        shared = min(scores.shape[-1], drafter_scores.shape[-1])
        log_p = scores[:, :shared].to(drafter_scores).log_softmax(-1)
        return log_p, drafter_scores[:, :shared].log_softmax(-1)

    @property
    def states(self) -> Tensor:
        """Hidden states, or scores, shape (positions, width)."""
        return self._hidden

    @torch.no_grad()
    def scores(self, chunk: slice) -> Tensor:
        """Unnormalised scores of some positions, fp32 or wider, shape (positions, vocab)."""
        states = self._hidden[chunk]
        scores = states if self._head is None else self._head(states)
        return scores if scores.dtype == torch.float64 else scores.float()


class Distiller(nn.Module):
    """The drafter and its loss as one module: what accelerate wraps.

    Everything that touches a parameter happens in its forward pass, where DDP wants it.
    """

    def __init__(
        self, drafter: PreTrainedModel, loss_function: LossFunction, *, chunk: int | None = None
    ) -> None:
        super().__init__()
        self.drafter, self._split = drafter, SplitModel(drafter)
        self._loss_function, self._chunk = loss_function, chunk

    def forward(
        self, tokens: Tensor, counted: Tensor, position_weights: Tensor, target: TargetScores
    ) -> tuple[Tensor, Tensor]:
        """As `chunked_loss`, at the counted positions of a batch, shape (rows, length)."""
        head, hidden = self._split.head, self._split.hidden(tokens, counted)
        weight, bias = (None, None) if head is None else (head.weight, head.bias)
        loss = self._loss_function
        return chunked_loss(hidden, weight, bias, position_weights, target, loss, chunk=self._chunk)
