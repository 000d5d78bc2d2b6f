"""One pass of target and drafter over a batch: hidden states in full, scores in chunks.

Knows nothing about groups: positions come with their weights.
"""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lm_eval_specfair.training.losses import LossFunction, TargetScores, chunked_loss

logger = logging.getLogger(__name__)

TRIAL_TOKENS = 8
# The same product over the same states: half precision is allowed its last digit, no soft cap.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_TOLERANCE = 8e-3


class SplitModel:
    """A causal LM taken apart into what makes hidden states, and the head that scores them.

    Where a model does more than a matrix product behind its last hidden states (a soft cap, a
    scale), its own scores are used instead, which costs memory by tokens x vocabulary. A trial on
    a few tokens tells.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Try how the model can be taken apart."""
        self.model = model
        self.vocab_size = int(model.config.get_text_config(decoder=True).vocab_size)
        self._is_split = self._trial()
        if not self._is_split:
            logger.warning(
                "%s: its scores are not a plain product of its last hidden states, so they are "
                "kept whole; memory grows by tokens x vocabulary",
                type(model).__name__,
            )

    @property
    def head(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias; (None, None) where `hidden` gives scores."""
        if not self._is_split:
            return None, None
        layer = self.model.get_output_embeddings()
        return layer.weight, getattr(layer, "bias", None)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states (or scores), shape (rows, length, width).

        Args:
            tokens: Token ids, padded behind; a causal model's padding touches nothing before it.
        """
        if self._is_split:
            states: Tensor = self.model.base_model(
                input_ids=tokens, use_cache=False
            ).last_hidden_state
            return states
        scores: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return scores

    @torch.no_grad()
    def _trial(self) -> bool:
        layer = self.model.get_output_embeddings()
        # An adapter on the head, or a quantised one, is more than its weight.
        if type(layer) is not nn.Linear or self.model.base_model is self.model:
            return False
        was_training = self.model.training
        self.model.eval()
        tokens = torch.arange(TRIAL_TOKENS, device=self.model.device)[None] % self.vocab_size
        try:
            whole = self.model(input_ids=tokens, use_cache=False).logits
            states = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            apart = functional.linear(states, layer.weight, layer.bias)
        except (TypeError, AttributeError, RuntimeError):
            return False
        finally:
            self.model.train(was_training)
        tolerance = TOLERANCE.get(whole.dtype, HALF_TOLERANCE)
        return whole.shape == apart.shape and torch.allclose(
            whole, apart, rtol=tolerance, atol=tolerance * float(whole.abs().max())
        )


class LiveTarget:
    """The target's scores from its hidden states, a chunk at a time."""

    def __init__(self, target: SplitModel, hidden: Tensor) -> None:
        """Score these hidden states.

        Args:
            target: Whose they are.
            hidden: Shape (positions, width).
        """
        self._head, self._hidden = target.head, hidden

    def outcomes(self, chunk: slice, drafter_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and log q over the ids that both models have.

        Models of one tokenizer pad their vocabularies differently; no text holds a padded id.
        """
        scores = self.scores(chunk)
        shared = min(scores.shape[-1], drafter_scores.shape[-1])
        log_p = scores[:, :shared].to(drafter_scores.dtype).log_softmax(-1)
        return log_p, drafter_scores[:, :shared].log_softmax(-1)

    @torch.no_grad()
    def scores(self, chunk: slice) -> Tensor:
        """Unnormalised scores of some positions, fp32 or wider, shape (positions, vocab)."""
        states = self._hidden[chunk]
        weight, bias = self._head
        scores = states if weight is None else functional.linear(states, weight, bias)
        return scores if scores.dtype == torch.float64 else scores.float()


class Distiller(nn.Module):
    """The drafter with its loss behind it, as one module: what accelerate wraps.

    Everything that touches a parameter happens in its forward pass, where DDP and FSDP want it.
    """

    def __init__(
        self, drafter: PreTrainedModel, loss_function: LossFunction, *, chunk: int | None = None
    ) -> None:
        """Train this drafter by this divergence."""
        super().__init__()
        self.drafter = drafter
        self._split = SplitModel(drafter)
        self._loss_function = loss_function
        self._chunk = chunk
        # FSDP shards layer by layer; embeddings and head stay the root's, whose forward is ours.
        self._no_split_modules = drafter._no_split_modules

    def tie_weights(self) -> None:
        """Tie what is tied again, which accelerate asks for when it moved weights one by one."""
        self.drafter.tie_weights()

    def forward(
        self, tokens: Tensor, counted: Tensor, position_weights: Tensor, target: TargetScores
    ) -> tuple[Tensor, Tensor]:
        """Weighted loss, and what was measured at each position.

        Args:
            tokens: Token ids, shape (rows, length).
            counted: Which predictions are learnt from, booleans, shape (rows, length - 1).
            position_weights: One for each counted position, shape (positions,).
            target: The target's side of the same positions.

        Returns:
            As `chunked_loss`.
        """
        hidden = self._split.hidden(tokens)[:, :-1][counted]
        weight, bias = self._split.head
        return chunked_loss(
            hidden,
            weight,
            bias,
            position_weights,
            target,
            self._loss_function,
            chunk=self._chunk,
        )


@torch.no_grad()
def live_target(target: SplitModel, tokens: Tensor, counted: Tensor) -> LiveTarget:
    """Let the target read a batch.

    Args:
        target: The target.
        tokens: Token ids, shape (rows, length).
        counted: Which predictions count, shape (rows, length - 1).
    """
    return LiveTarget(target, target.hidden(tokens)[:, :-1][counted])
