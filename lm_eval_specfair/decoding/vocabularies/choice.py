"""Whether a drafter with another tokenizer drafts through the shared tokens or through text."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.foreign_drafters import (
    ForeignDrafter,
    IntersectionDrafter,
    TextDrafter,
)
from lm_eval_specfair.decoding.vocabularies.own_context import Translation, opening, text_encoder
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling, spelling
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap, vocabulary_map
from lm_eval_specfair.errors import ConfigError

Method = Literal["auto", "intersection", "text"]
METHODS: tuple[str, ...] = get_args(Method)

LEAST_SHARE = 0.5
"""Of the target's tokens, expected in a text, for the intersection to be chosen.

An accepted draft is a shared token, so with a share c at most (1 - c^(n + 1)) / (1 - c) tokens come
of a step with n drafts: 1.9 at c = 0.5 and n = 4, however good the drafter. Above it there is no
reason to go through text, which at a temperature of 1 kept a third of what the intersection kept.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignVocabulary:
    """A drafter's vocabulary that is not the target's, and how it is drafted with.

    Attributes:
        target: What the target's tokens spell.
        drafter: What the drafter's spell.
        shared: The tokens that both have.
        method: `intersection` or `text`.
    """

    target: Spelling
    drafter: Spelling
    shared: VocabularyMap
    method: str

    def __str__(self) -> str:
        way = "the shared tokens" if self.method == "intersection" else "text"
        number, share = len(self.shared.target_ids), self.shared.share(self.target)
        return f"through {way} ({number:,} are shared, {share:.0%} of the target's)"

    def settings(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "method": self.method,
            "num_shared_tokens": len(self.shared.target_ids),
            "share_of_target_tokens": round(self.shared.share(self.target), 4),
            "expected_share_of_text": round(self.shared.expected_share(self.target), 4),
        }


def foreign_vocabulary(
    target: PreTrainedTokenizerBase,
    drafter: PreTrainedTokenizerBase,
    name: str,
    *,
    target_size: int,
    drafter_size: int,
    method: str = "auto",
) -> ForeignVocabulary:
    """Match a drafter's vocabulary with the target's.

    Args:
        target: The target's tokenizer.
        drafter: The drafter's.
        name: The drafter's, for messages.
        target_size: Scores that the target has per position.
        drafter_size: Scores that the drafter has.
        method: Of `METHODS`.

    Raises:
        ConfigError: If the tokens of one do not spell texts, or none is shared and `method` is
            `intersection`.
    """
    spelled = spelling(target, "the target"), spelling(drafter, f"drafter {name!r}")
    shared = vocabulary_map(*spelled, target_size=target_size, drafter_size=drafter_size)
    if method == "auto":
        is_large = shared.expected_share(spelled[0]) >= LEAST_SHARE
        method = "intersection" if is_large else "text"
    elif method == "intersection" and not len(shared.target_ids):
        raise ConfigError(
            f"drafter {name!r} shares no token with the target; use drafter_vocabulary=text"
        )
    return ForeignVocabulary(target=spelled[0], drafter=spelled[1], shared=shared, method=method)


def foreign_drafter(
    model: CausalModel,
    vocabulary: ForeignVocabulary,
    target: PreTrainedTokenizerBase,
    drafter: PreTrainedTokenizerBase,
) -> ForeignDrafter:
    """A drafter of this vocabulary; the tokenizers are those that it was made of."""
    translation = Translation(
        vocabulary.target, vocabulary.drafter, text_encoder(drafter), opening(drafter)
    )
    if vocabulary.method == "intersection":
        return IntersectionDrafter(model, vocabulary=vocabulary.shared, translation=translation)
    return TextDrafter(
        model,
        vocab_size=vocabulary.shared.target_size,
        translation=translation,
        encode=text_encoder(target),
    )
