"""A target's own module for multi-token prediction (MTP) as a drafter: a chain of one layer.

transformers reads the module's weights, which it leaves out of the target itself. Entry t reads the
target's hidden state after token t, past the final norm, and token t + 1; it has the position t + 1
and scores token t + 2. Each further step reads the drafted token and what the step before left.

Source:
    DeepSeek-AI 2024, DeepSeek-V3 (arXiv:2412.19437), section 2.2.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.families.masks import additive
from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.decoding.loading import MISREAD
from lm_eval_specfair.errors import ConfigError

MTP = "mtp"
"""The name of the drafter that is the target's own module."""
_INSTEAD = "use a drafting model, a head, or drafter=prompt_lookup"


def load_mtp(target: PreTrainedModel, name: str) -> Any:
    """A target's MTP module (transformers' `MtpModel`), on its device and in its type.

    Raises:
        ConfigError: If it has none, or one that cannot draft here.
    """
    number = getattr(target.config.get_text_config(decoder=True), "num_mtp_layers", None)
    if not number:
        raise ConfigError(
            f"drafter=mtp: target {name} has no module for multi-token prediction "
            f"(num_mtp_layers); {_INSTEAD}"
        )
    if number > 1:
        raise ConfigError(
            f"drafter=mtp: target {name} has {number} layers for multi-token prediction; one is "
            f"supported, and none of the models that have several was tried: {_INSTEAD}"
        )
    try:
        from transformers.modeling_layers import MtpModel
    except ImportError:
        raise ConfigError("drafter=mtp needs a transformers with MtpModel (5.23 has it)") from None
    try:
        with _named_by_depth(target):
            module = MtpModel.from_pretrained(target, device_map={"": target.device})
    except MISREAD as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"drafter=mtp: the module of target {name} cannot be read ({reason:.200}); {_INSTEAD}"
        ) from error
    return module.eval().requires_grad_(False)


@contextlib.contextmanager
def _named_by_depth(target: PreTrainedModel) -> Iterator[None]:
    """Find the module as the layer behind the target's last, whatever number that has.

    transformers finds it by the numbers of the models that were published (61 of DeepSeek-V3).
    """
    kept = target._keys_to_ignore_on_load_unexpected
    depth = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    target._keys_to_ignore_on_load_unexpected = [*(kept or ()), rf"model\.layers\.{depth}\."]
    try:
        yield
    finally:
        target._keys_to_ignore_on_load_unexpected = kept


class MtpChain:
    """An MTP module as `HeadDrafter` uses it."""

    feature_layers: tuple[int, ...]

    def __init__(self, module: Any, target: PreTrainedModel) -> None:
        config = target.config.get_text_config(decoder=True)
        self._module, self._layer = module, module.layers[0]
        self.feature_layers = (int(config.num_hidden_layers) + 1,)
        self.max_length = longest_text(target.config)
        self._is_eager = module.config._attn_implementation == "eager"

    @property
    def device(self) -> torch.device:
        return torch.device(self._layer.eh_proj.weight.device)

    def combine(self, features: Tensor) -> Tensor:
        return features

    def step(
        self,
        tokens: Tensor,
        hidden: Tensor,
        positions: Tensor,
        cache: RaggedCache,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        module, width = self._module, tokens.shape[1]
        if mask is None:
            mask = torch.ones(width, width, dtype=torch.bool, device=tokens.device).tril()
            mask = mask.expand(len(tokens), 1, width, width)
        embedded = module.embed_tokens(tokens)
        places = positions + 1
        rotation = None
        if module.rotary_emb is not None:
            rotation = module.rotary_emb(embedded, position_ids=places)
        output = self._layer(
            embedded,
            hidden,
            position_embeddings=rotation,
            attention_mask=additive(mask, hidden.dtype) if self._is_eager else mask,
            position_ids=places,
            past_key_values=cache,
        )
        if module.use_shared_post_norm:
            output = module.shared_post_norm(output)
        return output, output

    def scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self._module._project_to_logits(hidden)
        return scores if scores.dtype == torch.float64 else scores.float()
