"""The adapter of this package's engine with heads: one, trained on the target, for each model.

What a check knows of the drafting model's own distribution is not asked of a head.
"""

import functools
from collections.abc import Sequence

from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import Answer, Ask, AskSettings, Capability, Drafting
from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend, wrapped_model
from lm_eval_specfair.conformance.tiny_heads import trained_head
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_drafter import Eagle3Chain, HeadDrafter


class HeadBackend(SpecfairBackend):
    """`SpecfairBackend`, where a head drafts instead of each drafting model."""

    name = "specfair-heads"
    capabilities = SpecfairBackend.capabilities - {Capability.SUMS, Capability.TOKENIZERS}

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        if not isinstance(drafter, PreTrainedModel):
            return super().decode(target, drafter, asks, settings)
        head = HeadDrafter(Eagle3Chain(_head_of(target)))
        return self._decode(wrapped_model(target), head, asks, settings)


@functools.lru_cache(maxsize=64)
def _head_of(target: PreTrainedModel) -> Eagle3Head:
    last = int(target.config.num_hidden_layers) - 1
    return trained_head(target, sorted({0, last}))
