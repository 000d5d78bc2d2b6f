"""Which texts which drafters read: those of another tokenizer have texts in tokens of their own."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.fitted.fitted_folder import read_fitted
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling, pieces_of, spelling
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.texts.token_pieces import TokenPieces
from lm_eval_specfair.replays import replay_models
from lm_eval_specfair.replays.drafters.own_tokens import OwnTokens, own_tokens
from lm_eval_specfair.replays.drafters.replayed_drafter import ReplayedDrafter, ReplayedModel
from lm_eval_specfair.replays.drafters.replayed_proposals import ReplayedProposals
from lm_eval_specfair.replays.drafters.replayed_trusted import ReplayedTrusted
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass, TextReader

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Together:
    """Texts in the tokens of some drafters; without the target where these are not its own."""

    texts: Sequence[KnownText]
    drafters: Mapping[str, ReplayedDrafter]
    target: TextReader | None

    def without(self, done: Collection[str]) -> "Together":
        """The texts of requests that are not yet done."""
        left = [text for text in self.texts if text.request_id not in done]
        return dataclasses.replace(self, texts=left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """All that is read.

    Attributes:
        own: Drafters with another tokenizer than the texts'.
        of_target: What the target's tokens spell, where bytes are counted.
        of_texts: What the texts' tokens spell, for the runs' folders; None without their tokenizer.
    """

    parts: Sequence[Together]
    own: Mapping[str, OwnTokens]
    of_target: Spelling | None
    of_texts: TokenPieces | None

    @property
    def has_target(self) -> bool:
        """Whether texts are held against the target."""
        return any(part.target is not None for part in self.parts)

    def spelled(self, drafter: str) -> Spelling | None:
        """What the tokens spell that a drafter is replayed on."""
        return self.own[drafter].spelling if drafter in self.own else self.of_target

    def pieces(self, drafter: str) -> TokenPieces | None:
        """What all tokens spell that a drafter is replayed on; None where nobody knows."""
        if drafter in self.own:
            return self.own[drafter].spelling.as_pieces()
        return self.of_texts


def readings_of(
    texts: Sequence[KnownText],
    drafters: Sequence[str],
    readers: Mapping[str, OnePass],
    target: TextReader | None,
    tokenizer: PreTrainedTokenizerBase | None,
    heads: Mapping[str, ReplayedDrafter],
) -> Readings:
    """All drafters, each on texts in its tokens; `readers` are of those that are models.

    `heads` read the target's tokens and hidden states.

    Raises:
        ConfigError: If token ids are none of a model's, or tokens do not spell texts.
    """
    named = {name: replay_models.named_drafter(name) for name in drafters}
    own = own_tokens({name: str(named[name].model) for name in readers}, tokenizer)
    vocab_size = None if target is None else target.vocab_size
    models = {
        id(reader): ReplayedModel(reader, vocab_size=None if name in own else vocab_size)
        for name, reader in readers.items()
    }
    replayed: dict[str, ReplayedDrafter] = {}
    for name, each in named.items():
        each.refuse_other_tokenizer(tokenizer, vocab_size)
        model = models[id(readers[name])] if name in readers else None
        if each.lookup is not None and name in own:
            raise ConfigError(
                f"drafter {name!r:.200} has another tokenizer than the texts, whose tokens are "
                "looked up: decode with it, or replay its parts"
            )
        replayed[name] = heads.get(name) or _replayed(each, model, vocab_size)
    of_texts = {name: reader for name, reader in readers.items() if name not in own}
    replay_models.refuse_other_vocabulary(texts, of_texts, target)
    parts = [Together(texts, {n: d for n, d in replayed.items() if n not in own}, target)]
    parts += [
        Together([t for text in texts if (t := each.of_text(text))], {name: replayed[name]}, None)
        for name, each in own.items()
    ]
    return Readings(
        parts=[part for part in parts if part.drafters],
        own=own,
        of_target=spelling(tokenizer, "the target") if own and tokenizer else None,
        of_texts=None if tokenizer is None else pieces_of(tokenizer),
    )


def _replayed(
    name: DrafterName, model: ReplayedModel | None, vocab_size: int | None
) -> ReplayedDrafter:
    """A drafter, whose model was read if it has one."""
    fitted = [read_fitted(path).about.vocab_size for path in name.fitted]
    size = vocab_size or max(fitted, default=0)
    if model is None:
        return ReplayedProposals(functools.partial(name.made, None, vocab_size=size, device=_CPU))
    if name.lookup is None:
        return model
    return ReplayedTrusted(functools.partial(name.lookup_drafter, _CPU), model)
