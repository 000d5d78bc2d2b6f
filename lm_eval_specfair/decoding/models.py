"""A Hugging Face causal LM with a ragged cache: token ids in, scores out.

Refuses what it cannot decode exactly, first by the configuration, then by trying it: the same
short texts are scored without a cache and through a rolled-back ragged one, and must agree.
"""

import contextlib
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache, cache_argument, layer_kinds
from lm_eval_specfair.decoding.families.layer_outputs import LayerOutputs
from lm_eval_specfair.decoding.families.longrope import LongRope, LongRopeCache, longrope_border
from lm_eval_specfair.decoding.families.masks import additive, row_masks
from lm_eval_specfair.decoding.families.own_positions import Telling, tellings
from lm_eval_specfair.decoding.families.refusals import (
    has_alibi,
    longest_text,
    position_limit,
    refuse_by_configuration,
)
from lm_eval_specfair.decoding.families.self_check import check_exactness
from lm_eval_specfair.decoding.fused.fused_forward import FusedForward
from lm_eval_specfair.decoding.loading import with_adapter_inside
from lm_eval_specfair.decoding.states.state_trial import keeps_states, stateful_model
from lm_eval_specfair.errors import ConfigError

# Most tokens of prompts in one pass (its activations stay small), unless one prompt is longer.
MAX_PROMPT_TOKENS = 2048
# After reading this many tokens of prompts, memory is given back to the system.
LARGE_PROMPTS = 512


def of_like_lengths(prompts: list[list[int]]) -> list[list[int]]:
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


class CausalModel:
    """A causal LM that scores blocks of tokens for a batch of rows of different lengths.

    Attributes:
        cache: The rows' keys and values; `cache.lengths[row] = n` rolls a row back.
        max_length: Positions that the model was made for.
        vocab_size: Scores per position.
        features: Of watched layers, what the last call of `read_prompts` or `score` left of each
            of its rows' tokens, shape (width, layers * hidden).
    """

    def __init__(self, model: PreTrainedModel, *, role: str = "target") -> None:
        """Wrap a model in evaluation mode, on its device; messages call it by its role.

        Raises:
            ConfigError: If its cache cannot be rolled back row by row.
        """
        model = with_adapter_inside(model, role)
        self._model = model
        self._role = role
        self._name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        config = model.config.get_text_config(decoder=True)
        self.vocab_size = int(config.vocab_size)
        self.max_length = longest_text(model.config)
        self._limit = position_limit(model)
        self._fused: FusedForward | None = None
        self._outputs: LayerOutputs | None = None
        self.features: Sequence[Tensor] = ()
        self._stateful = stateful_model(model, role, self._name) if keeps_states(model) else None
        if self._stateful is not None:
            self.cache = self._empty_cache()
            return
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = cache_argument(model.forward)
        # Of a prompt no score is used, so one position's are enough.
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        self._refuse_by_configuration()
        self._kinds = layer_kinds(config)
        self._longrope = None if longrope_border(config) is None else LongRope(model)
        self.cache = self._empty_cache()
        self._tellings: list[Telling] = tellings(model)
        # One causal mask serves these; others make a mask for each kind of layer themselves.
        self._is_plain = (
            set(self._kinds) == {"DynamicLayer"}
            and not self._tellings
            and self._longrope is None
            and not has_alibi(config)
        )
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

    @property
    def steps_differ(self) -> bool:
        """Whether its single steps compute something else than its pass over a whole text."""
        return self._stateful is not None and self._stateful.reads_late

    def reset(self) -> None:
        """Forget all rows and free their memory."""
        self.cache = self._empty_cache()
        if self._fused is not None:
            self._fused.refresh()

    def watch(self, layers: Sequence[int]) -> None:
        """Keep the hidden states that enter these layers as `features`; none cost nothing.

        Layers count from 0; the number of layers stands for the last one's output, one more for
        that after the final norm.

        Raises:
            ConfigError: If they cannot be kept.
        """
        self.features = ()
        if not layers:
            self._outputs = None
            return
        if self._stateful is not None or self._longrope is not None:
            raise ConfigError(
                f"{self._role} {self._name} reads some tokens more than once (recurrent states, "
                "longrope), so no head can draft for it in this process; use a drafting model"
            )
        if self._outputs is None or self._outputs.layers != tuple(layers):
            self._outputs = LayerOutputs(self._model, layers, name=self._name)

    def _empty_cache(self) -> RaggedCache:
        if self._stateful is not None:
            return self._stateful.new_cache()
        return RaggedCache(self._kinds) if self._longrope is None else LongRopeCache(self._kinds)

    @torch.inference_mode()
    def read_prompts(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Fill empty rows with prompts, of any lengths, 0 included."""
        if self._stateful is not None:
            self._stateful.read_prompts(self.cache, rows, prompts)
            return
        if self._longrope is not None:
            self._longrope.note(self.cache, rows, prompts)
        self.cache.room = (max(rows) + 1, max(map(len, prompts)))
        kept: dict[int, Tensor] = {}
        for group in of_like_lengths(prompts):
            width = len(prompts[group[0]])
            if not width:
                continue
            padded = [prompts[index] + [0] * (width - len(prompts[index])) for index in group]
            positions = torch.arange(width, device=self.device).expand(len(group), -1)
            self.cache.aim([rows[index] for index in group], positions, is_prompt=True)
            self._forward(torch.tensor(padded, device=self.device), positions, None)
            if self._outputs is not None:
                features = self._outputs.taken(self.device)
                kept |= {i: features[n, : len(prompts[i])] for n, i in enumerate(group)}
        if self._outputs is not None:
            empty = self._outputs.empty(self.device, self._model.dtype)
            self.features = [kept.get(index, empty) for index in range(len(prompts))]
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
        if self._longrope is not None:
            for row in self._longrope.to_read_anew(self.cache, starts):
                self.read_prompts([row], [self._longrope.text(self.cache, row, starts[row])])
            self._longrope.note_block(self.cache, starts, tokens)
        first = torch.tensor(starts, device=self.device)[:, None]
        positions = first + torch.arange(width, device=self.device)
        self.cache.aim(list(range(count)), positions, is_prompt=False)
        keys = torch.arange(max(starts) + width, device=self.device)
        mask = keys <= positions[:, None, :, None]
        output = self._forward(tokens, positions, mask)
        if self._outputs is not None:
            self.features = self._outputs.taken(self.device).unbind()
        if self.cache.has_grown:  # rare: it grows by many entries
            self.cache.give_back()
        if self._longrope is not None:
            output = self._longrope.past_the_border(self.cache, starts, output)
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
        if self._limit is not None:
            positions = positions.clamp(max=self._limit - 1)
        if self._fused is not None:
            if self._outputs is None:
                return self._fused(tokens, positions, mask, self.cache)
            hidden = self._fused(tokens, positions, mask, self.cache, self._outputs.note)
            self._outputs.note_last(hidden, self._fused.normed)
            return hidden
        given = {"use_cache": True, self._cache_argument: self.cache}
        if self._takes_positions:
            given["position_ids"] = positions
        with contextlib.ExitStack() as active:
            if self._outputs is not None:
                active.enter_context(self._outputs.hooked())
            if self._is_plain:
                if mask is None:
                    mask = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
                    mask = mask.expand(rows, 1, width, width)
                if self._additive_mask:
                    mask = additive(mask, self._model.dtype)
                given["attention_mask"] = mask
            else:
                own = self.cache.positions
                active.enter_context(row_masks(own))
                for telling in self._tellings:
                    active.enter_context(telling(own))
                if self._longrope is not None:
                    active.enter_context(self._longrope.phases(self.cache, own))
            logits: Tensor = self._model(input_ids=tokens, **given, **keep).logits
        return logits

    def refuse_beyond(self, length: int) -> None:
        """Refuse to decode a text of this many tokens if the model cannot place them all.

        Raises:
            ConfigError: If it cannot.
        """
        if self._limit is not None and length > self._limit:
            raise ConfigError(
                f"{self._role} {self._name} has {self._limit} positions; a text of {length} tokens "
                "is longer. Shorten prompts or outputs (max_length, max_gen_toks)."
            )

    def _refuse_by_configuration(self) -> None:
        refuse_by_configuration(
            self._model.config, type(self._model), role=self._role, name=self._name
        )

    def _refuse_by_trial(self) -> None:
        check_exactness(self, self._model, role=self._role, name=self._name)
