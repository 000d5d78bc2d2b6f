"""What a drafter's name asks for, and the drafter of a name.

A name is a model's folder or hub id, `prompt_lookup`, `suffix_lookup`, the folder of a fitted
drafter, or `none`. `LOOKUP+NAME` looks up first and lets `NAME` draft where no match is long
enough; `LOOKUP:N` says how long, in tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding.composed.trusted_first import TrustedFirst
from lm_eval_specfair.decoding.drafters import Drafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.fitted.fitted_folder import (
    is_fitted,
    read_fitted,
    tokenizer_digest,
)
from lm_eval_specfair.decoding.fitted.ngram_drafter import NgramDrafter
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore
from lm_eval_specfair.decoding.loading import found_model, shown_name
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.errors import ConfigError

PROMPT_LOOKUP, SUFFIX_LOOKUP, NONE = "prompt_lookup", "suffix_lookup", "none"
TRUSTED = 3
"""Tokens of a match that goes before another drafter, where a name does not say how many."""


@dataclass(frozen=True, slots=True)
class DrafterName:
    """A drafter's name in its parts.

    Attributes:
        lookup: `suffix_lookup` or a store's folder; None where nothing is looked up like that.
        least: The shortest match that is followed.
        other: What drafts otherwise; None where nothing does.
    """

    lookup: str | None = None
    least: int = 1
    other: str | None = None

    @classmethod
    def read(cls, name: str, *, beside: str = "") -> "DrafterName":
        """Read a name; folders are found from here, or from the file that is named `beside`.

        Raises:
            ConfigError: If it is none, or a fitted drafter's files are not in order.
        """
        if name in (NONE, PROMPT_LOOKUP):
            return cls(other=name)
        whole = _found(name, beside)
        if Path(whole).exists() or "+" not in name:
            return cls._single(name, whole, beside)
        first, _, rest = name.partition("+")
        lookup, least = _lookup(first, beside)
        other = cls.read(rest, beside=beside) if rest else cls()
        if lookup is None or other.lookup is not None or other.other in (None, NONE):
            raise ConfigError(
                f"drafter {name!r:.200}: expected LOOKUP+DRAFTER, with suffix_lookup or a folder "
                "of `specfair fit --kind lookup` first (:N behind it is its shortest match), and a "
                "model, prompt_lookup or a folder of n-grams behind it"
            )
        return cls(lookup, TRUSTED if least is None else least, other.other)

    @classmethod
    def _single(cls, name: str, whole: str, beside: str) -> "DrafterName":
        lookup, least = _lookup(name, beside)
        return cls(other=whole) if lookup is None else cls(lookup, least or 1)

    @property
    def model(self) -> str | None:
        """The folder or hub id of the model that drafts; None where none does."""
        is_other = self.other in (None, NONE, PROMPT_LOOKUP) or is_fitted(str(self.other))
        return None if is_other else self.other

    @property
    def draws(self) -> bool:
        """Whether it draws tokens of sampled texts, rather than naming one."""
        if self.model is not None:
            return True
        fitted = str(self.other)
        return is_fitted(fitted) and isinstance(read_fitted(fitted).model, NgramModel)

    @property
    def fitted(self) -> list[str]:
        """The folders of its fitted drafters."""
        return [name for name in (self.lookup, self.other) if name and is_fitted(name)]

    @property
    def shown(self) -> str:
        """The name for records and reports."""
        if self.lookup is None:
            return shown_name(str(self.other))
        usual = 1 if self.other is None else TRUSTED
        lookup = self.lookup + (f":{self.least}" if self.least != usual else "")
        if self.other is None:
            return lookup
        return f"{lookup}+{shown_name(self.other).replace('embedded/drafter', 'embedded')}"

    def weights(self, of_model: str | None) -> str | None:
        """A digest of what it was made of, given that of its model; None of what has no weights."""
        digests = {name: weights_digest(name, None) for name in self.fitted}
        if self.lookup is None:
            return of_model if self.model else digests.get(str(self.other))
        if self.other is None:
            found = digests.get(self.lookup)
            return found if found is None or self.least == 1 else f"{found}:{self.least}"
        other = of_model if self.model else digests.get(self.other, self.other)
        return f"{digests.get(self.lookup, self.lookup)}:{self.least}+{other}"

    def refuse_other_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int | None
    ) -> None:
        """Refuse fitted drafters of other tokens than the target's.

        Raises:
            ConfigError: If one was fitted with another tokenizer, or on ids that the target lacks.
        """
        for name in self.fitted:
            about = read_fitted(name).about
            if tokenizer is not None and about.tokenizer is not None:
                if about.tokenizer != tokenizer_digest(tokenizer):
                    raise ConfigError(
                        f"drafter {name} was fitted on the tokens of another tokenizer than the "
                        "target's; fit one on this target's texts (`specfair fit`)"
                    )
            elif vocab_size is not None and about.vocab_size > vocab_size:
                raise ConfigError(
                    f"drafter {name} was fitted on token ids up to {about.vocab_size - 1}, the "
                    f"target has {vocab_size}; fit one on this target's texts (`specfair fit`)"
                )

    def made(self, model: Drafter | None, *, vocab_size: int, device: torch.device) -> Drafter:
        """The drafter for a target with so many scores; `model` drafts with its model, if any."""
        other = model or _without_model(self.other, vocab_size, device)
        if self.lookup is None:
            return other
        lookup = self.lookup_drafter(device)
        if self.other is None:
            return lookup
        return TrustedFirst(lookup, other, vocab_size=vocab_size, device=device)

    def lookup_drafter(self, device: torch.device) -> SuffixLookup:
        """Its lookup alone."""
        is_store = self.lookup is not None and self.lookup != SUFFIX_LOOKUP
        store = read_fitted(str(self.lookup)).model if is_store else None
        assert store is None or isinstance(store, TextStore)
        return SuffixLookup(device, store, least=self.least)


def fitted_prompts(names: Sequence[DrafterName]) -> set[int]:
    """Digests of the prompts whose answers any of the drafters was fitted on."""
    return set[int]().union(
        *(read_fitted(folder).prompts for name in names for folder in name.fitted)
    )


def _found(name: str, beside: str) -> str:
    return found_model(name, beside=beside) if name else name


def _lookup(name: str, beside: str) -> tuple[str | None, int | None]:
    """`LOOKUP` or `LOOKUP:N` as its parts; None where it is something else."""
    base, _, number = name.rpartition(":")
    has_number = bool(base) and re.fullmatch(r"\d{1,6}", number) is not None
    base, least = (base, int(number)) if has_number else (name, None)
    folder = _found(base, beside)
    is_store = is_fitted(folder) and isinstance(read_fitted(folder).model, TextStore)
    if base != SUFFIX_LOOKUP and not is_store:
        return None, None
    if least == 0:
        raise ConfigError(f"drafter {name!r:.200}: expected a match of at least 1 token, got 0")
    return (folder if is_store else base), least


def _without_model(name: str | None, vocab_size: int, device: torch.device) -> Drafter:
    if name == PROMPT_LOOKUP:
        return PromptLookup(device)
    if name and is_fitted(name):
        model = read_fitted(name).model
        assert isinstance(model, NgramModel)
        return NgramDrafter(model, vocab_size=vocab_size, device=device)
    return NoDrafter(device)
