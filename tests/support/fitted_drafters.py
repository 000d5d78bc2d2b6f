"""Fitted drafters for tests: n-grams of some texts, and lookups that go before another drafter."""

from collections.abc import Sequence

from lm_eval_specfair.decoding.composed.trusted_first import TrustedFirst
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.fitted.ngram_counts import count_ngrams
from lm_eval_specfair.decoding.fitted.ngram_drafter import NgramDrafter
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore

from support.decoding_runs import CPU


def ngram_drafter(
    texts: Sequence[Sequence[int]], vocab_size: int, *, order: int = 3
) -> NgramDrafter:
    counts = count_ngrams([(text, 0) for text in texts], order)
    return NgramDrafter(NgramModel(counts, vocab_size), vocab_size=vocab_size, device=CPU)


def trusted_first(
    other: Drafter, vocab_size: int, *, least: int = 2, store: TextStore | None = None
) -> TrustedFirst:
    lookup = SuffixLookup(CPU, store, least=least)
    return TrustedFirst(lookup, other, vocab_size=vocab_size, device=CPU)
