"""Finished texts in the tokens of a drafter whose tokenizer is another than the target's.

Such a drafter is replayed as if the target had its tokenizer: which of its own tokens of the text
it would have got right. Tokens of two tokenizers are no common measure, bytes are: see
`accepted_bytes_share`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.vocabularies.own_context import (
    OwnContext,
    Translation,
    opening,
    text_encoder,
)
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling, spelling
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText


class OwnTokens:
    """Translates texts from the target's tokens to a drafter's."""

    def __init__(
        self, target: PreTrainedTokenizerBase, drafter: PreTrainedTokenizerBase, name: str
    ) -> None:
        """Translate for the drafter of this name.

        Raises:
            ConfigError: If the tokens of one tokenizer do not spell texts.
        """
        self.name = name
        self.spelling = spelling(drafter, f"drafter {name!r}")
        self._translation = Translation(
            spelling(target, "the target"), self.spelling, text_encoder(drafter), opening(drafter)
        )

    def of_text(self, text: KnownText) -> KnownText | None:
        """The text in the drafter's tokens; None where its response has none.

        Its length limit was one of the target's tokens, so it has none here.

        Raises:
            ConfigError: If it was sampled: what would be kept depends on the target's distribution
                over the drafter's tokens, which nobody knows.
        """
        if text.temperature > 0:
            raise ConfigError(
                f"{text.request_id} was sampled (temperature {text.temperature:g}): drafter "
                f"{self.name!r} has another tokenizer, for which only greedy texts can be replayed"
            )
        context = OwnContext(self._translation)
        prompt = context.extended(text.prompt)
        tokens = context.extended([*text.prompt, *text.response])
        response = tokens[len(prompt) :]
        if tokens[: len(prompt)] != prompt:  # the response begins within a token of the prompt
            alone = OwnContext(self._translation, is_inside=True)
            response = alone.extended(text.response)
        if not response:
            return None
        return dataclasses.replace(
            text,
            prompt=prompt,
            response=response,
            max_new_tokens=None,
            num_certain=None if text.is_certain else 0,
        )


def own_tokens(
    drafters: Mapping[str, str], tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, OwnTokens]:
    """Of drafters (by name: where they are) with another tokenizer than the texts'.

    A drafter without a tokenizer is taken to have the texts'.

    Raises:
        ConfigError: If tokens do not spell texts.
    """
    found = {}
    for name, path in drafters.items():
        try:
            own = loading.drafter_tokenizer(path)
        except ConfigError:
            continue
        if tokenizer is not None and loading.tokenizer_difference(tokenizer, own) is not None:
            found[name] = OwnTokens(tokenizer, own, name)
    return found


def num_accepted_bytes(
    accepted_per_step: Sequence[int], response: Sequence[int], spelled: Spelling
) -> int:
    """UTF-8 bytes of the drafted tokens that were kept along a text."""
    place = total = 0
    for accepted in accepted_per_step:
        pieces = (spelled.piece(token) for token in response[place : place + accepted])
        total += sum(len(piece or b"") for piece in pieces)
        place += accepted + 1
    return total
