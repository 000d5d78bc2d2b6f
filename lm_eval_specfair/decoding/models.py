"""A Hugging Face causal LM with a ragged cache: token ids in, scores out.

Refuses what it cannot decode exactly, first by the configuration, then by trying it: the same
short texts are scored without a cache and through a rolled-back ragged one, and must agree.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache, layer_kinds
from lm_eval_specfair.decoding.families.masks import additive, row_masks
from lm_eval_specfair.decoding.families.refusals import (
    INSTEAD,
    MIN_POSITIONS,
    has_alibi,
    longest_text,
    refuse_by_configuration,
)
from lm_eval_specfair.decoding.fused_forward import FusedForward
from lm_eval_specfair.decoding.states.state_trial import keeps_states, stateful_model
from lm_eval_specfair.errors import ConfigError

# Most tokens of prompts in one pass (its activations stay small), unless one prompt is longer.
MAX_PROMPT_TOKENS = 2048
# After reading this many tokens of prompts, memory is given back to the system.
LARGE_PROMPTS = 512
# Largest difference of scores that rounding explains, relative to their standard deviation.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}


def _of_like_lengths(prompts: list[list[int]]) -> list[list[int]]:
    """Indices of prompts to be read in one pass each: none is padded by more than a third.

    The longest comes first, within a group and among groups, so that a cache grows once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: -len(prompts[index])):
        width = len(prompts[groups[-1][0]]) if groups else 0
        if (
            groups
            and 4 * len(prompts[index]) >= 3 * width
            and width * (len(groups[-1]) + 1) <= MAX_PROMPT_TOKENS
        ):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def cache_argument(forward: Callable[..., object]) -> str:
    """The name of a model's argument for its cache: `cache` since transformers 5.24."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


class CausalModel:
    """A causal LM that scores blocks of tokens for a batch of rows of different lengths.

    Attributes:
        cache: The rows' keys and values; `cache.lengths[row] = n` rolls a row back.
        max_length: Positions that the model was made for.
        vocab_size: Scores per position.
    """

    def __init__(self, model: PreTrainedModel, *, role: str = "target") -> None:
        """Wrap a model in evaluation mode, on its device; messages call it by its role.

        Raises:
            ConfigError: If its cache cannot be rolled back row by row.
        """
        self._model = model
        self._role = role
        self._name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        config = model.config.get_text_config(decoder=True)
        self.vocab_size = int(config.vocab_size)
        self.max_length = longest_text(model.config)
        self._fused: FusedForward | None = None
        self._stateful = stateful_model(model, role, self._name) if keeps_states(model) else None
        if self._stateful is not None:
            self.cache = self._stateful.new_cache()
            return
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = cache_argument(model.forward)
        # Of a prompt no score is used, so one position's are enough.
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        self._refuse_by_configuration()
        self._kinds = layer_kinds(config)
        self.cache = RaggedCache(self._kinds)
        # One causal mask serves these; others make a mask for each kind of layer themselves.
        self._is_plain = set(self._kinds) == {"DynamicLayer"} and not has_alibi(config)
        self._additive_mask = config._attn_implementation == "eager"
        fits = self._is_plain and not self._additive_mask and FusedForward.fits(model)
        self._fused = FusedForward(model) if fits else None
        self._refuse_by_trial()

    @property
    def device(self) -> torch.device:
        return torch.device(self._model.device)

    @property
    def states(self) -> str | None:
        """How recurrent states are kept: "block", "token" or "row"; None if there are none."""
        return self._stateful.mode if self._stateful else None

    def reset(self) -> None:
        """Forget all rows and free their memory."""
        self.cache = self._stateful.new_cache() if self._stateful else RaggedCache(self._kinds)
        if self._fused is not None:
            self._fused.refresh()

    @torch.inference_mode()
    def read_prompts(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Fill empty rows with prompts, of any lengths, 0 included."""
        if self._stateful is not None:
            self._stateful.read_prompts(self.cache, rows, prompts)
            return
        self.cache.room = (max(rows) + 1, max(map(len, prompts)))
        for group in _of_like_lengths(prompts):
            width = len(prompts[group[0]])
            if not width:
                continue
            padded = [prompts[index] + [0] * (width - len(prompts[index])) for index in group]
            positions = torch.arange(width, device=self.device).expand(len(group), -1)
            self.cache.aim([rows[index] for index in group], positions, is_prompt=True)
            self._forward(torch.tensor(padded, device=self.device), positions, None)
        self.cache.lengths += [0] * (max(rows) + 1 - len(self.cache.lengths))
        for row, prompt in zip(rows, prompts, strict=True):
            self.cache.lengths[row] = len(prompt)
        if self.cache.has_grown or sum(map(len, prompts)) >= LARGE_PROMPTS:
            self.cache.give_back()

    @torch.inference_mode()
    def score(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Scores after each of a block's tokens, for rows 0, 1, ... of the cache.

        The block is written after each row's valid entries; the lengths stay as they are, since
        only the caller knows how many of its tokens are kept.

        Args:
            tokens: Token ids, shape (rows, width).
            at: Index of the one token of each row to score, shape (rows,); None for all tokens.

        Returns:
            Unnormalised log-probabilities, at least fp32, (rows, width, vocab) or (rows, vocab).
        """
        if self._stateful is not None:
            return self._stateful.score(self.cache, tokens, at)
        count, width = tokens.shape
        starts = self.cache.lengths[:count]
        first = torch.tensor(starts, device=self.device)[:, None]
        positions = first + torch.arange(width, device=self.device)
        self.cache.aim(list(range(count)), positions, is_prompt=False)
        keys = torch.arange(max(starts) + width, device=self.device)
        mask = keys <= positions[:, None, :, None]
        output = self._forward(tokens, positions, mask)
        if self.cache.has_grown:  # rare: it grows by many entries
            self.cache.give_back()
        if at is not None:
            output = output[torch.arange(count, device=self.device), at]
        scores = output if self._fused is None else self._fused.scores(output)
        return scores if scores.dtype == torch.float64 else scores.float()

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """One pass: scores, or the hidden states that the fused pass makes scores of.

        Arguments are those of `FusedForward`.
        """
        rows, width = tokens.shape
        keep = self._keep if mask is None else {}
        # Tokens that pad a block may be past the last position; their scores are not used.
        positions = positions.clamp(max=self.max_length - 1)
        if self._fused is not None:
            return self._fused(tokens, positions, mask, self.cache)
        cached = {"use_cache": True, self._cache_argument: self.cache}
        if self._takes_positions:
            cached["position_ids"] = positions
        logits: Tensor
        if not self._is_plain:
            with row_masks(self.cache.positions):
                logits = self._model(input_ids=tokens, **cached, **keep).logits
            return logits
        if mask is None:
            mask = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
            mask = mask.expand(rows, 1, width, width)
        if self._additive_mask:
            mask = additive(mask, self._model.dtype)
        logits = self._model(input_ids=tokens, attention_mask=mask, **cached, **keep).logits
        return logits

    def _refuse_by_configuration(self) -> None:
        refuse_by_configuration(
            self._model.config, type(self._model), role=self._role, name=self._name
        )

    @torch.inference_mode()
    def _refuse_by_trial(self) -> None:
        """Score two short texts with and without the cache, with a roll-back between."""
        size = min(self.vocab_size, 97)
        long, short = [
            [(7 * i + s) % size for i in range(n)] for s, n in ((1, MIN_POSITIONS), (3, 6))
        ]
        plain = [
            self._model(input_ids=torch.tensor([text], device=self.device)).logits[0, -3:].double()
            for text in (long, short)
        ]
        try:
            self.read_prompts([0, 1], [long[:-3], short[:-3]])
            self.score(torch.full((2, 3), 5 % size, device=self.device))  # rejected as a whole
            blocks = torch.tensor([long[-3:], short[-3:]], device=self.device)
            ragged = self.score(blocks).double()
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"{self._role} {self._name} cannot be decoded with a cache of row lengths "
                f"({type(error).__name__}: {str(error).splitlines()[0]:.120}). {INSTEAD}"
            ) from error
        finally:
            self.reset()
        expected = torch.stack(plain)
        worst = float((ragged - expected).abs().max())
        spread = float(expected.std()) + 1e-6
        if not worst <= TOLERANCE.get(self._model.dtype, 0.2) * max(spread, 1.0):
            raise ConfigError(
                f"{self._role} {self._name}: scores through a rolled-back cache differ from "
                f"those without one by {worst:.3g}; this model cannot be decoded exactly. {INSTEAD}"
            )
