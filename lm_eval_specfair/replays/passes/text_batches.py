"""Texts that are read together: of like length, of the same sampling settings, with one prefix."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np

from lm_eval_specfair.replays.known_text import KnownText

_MIN_SHARED = 32  # tokens; a shorter prefix is read again
_MIN_SAVED = 0.1  # of a group's tokens
# A prefix is held once for each text of a batch: so many times a batch's usual tokens.
_MOST_HELD = 8


class HasLimit(Protocol):
    """Whatever reads batches."""

    @property
    def tokens_at_once(self) -> int:
        """Most padded tokens of one pass."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of one pass.

    Attributes:
        texts: Of the same sampling settings, the shortest first.
        num_shared: Tokens with which all their prompts begin, and that are read only once; each
            prompt has at least one more.
    """

    texts: Sequence[KnownText]
    num_shared: int = 0


def batches(
    texts: Iterable[KnownText], readers: Sequence[HasLimit], *, share: bool = True
) -> Iterator[TextBatch]:
    """Texts in batches, each within a bound on tokens; those that share a prefix come together.

    Args:
        texts: In any order; that of the batches depends on the texts alone.
        readers: The batches fit all of them.
        share: Whether prefixes are looked for.
    """
    most = min((reader.tokens_at_once for reader in readers), default=1 << 16)
    for _, alike in groupby(sorted(texts, key=_order), key=lambda text: text.sampling):
        for group in _by_prefix(list(alike)) if share else [TextBatch(list(alike))]:
            yield from _cut(group, most)


def _cut(group: TextBatch, most: int) -> Iterator[TextBatch]:
    batch: list[KnownText] = []
    for text in sorted(group.texts, key=_order):
        rows = len(batch) + 1
        is_full = (text.num_read - group.num_shared) * rows > most
        if batch and (is_full or (group.num_shared and text.num_read * rows > _MOST_HELD * most)):
            yield dataclasses.replace(group, texts=batch)
            batch = []
        batch.append(text)
    yield dataclasses.replace(group, texts=batch)


def _order(text: KnownText) -> tuple[float, int, float, int, str]:
    temperature, top_k, top_p = text.sampling
    return temperature, top_k or 0, top_p or 0.0, text.num_read, text.request_id


def _by_prefix(texts: Sequence[KnownText]) -> list[TextBatch]:
    """Groups that begin alike, and first of all, in one group, the texts that share nothing."""
    ordered = sorted(texts, key=lambda text: (text.prompt, text.request_id))
    shared = [_common(one.prompt, other.prompt) for one, other in pairwise(ordered)]
    groups, start, prefix = list[TextBatch](), 0, 0
    for end in range(1, len(ordered) + 1):
        number = end - start
        # The prefix of all texts from `start` on, if this one still belonged to them.
        wider = 0 if end == len(ordered) else shared[end - 1]
        wider = wider if number == 1 else min(prefix, wider)
        if number * wider > (number - 1) * prefix:
            prefix = wider
            continue
        groups.append(TextBatch(ordered[start:end], prefix))
        start, prefix = end, 0
    lone = [text for group in groups if not _is_worth_it(group) for text in group.texts]
    kept = [group for group in groups if _is_worth_it(group)]
    return ([TextBatch(lone)] if lone else []) + kept


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which two prompts begin, less than either has."""
    most = min(len(one), len(other)) - 1
    differs = np.not_equal(one[:most], other[:most])
    return int(differs.argmax()) if differs.any() else most


def _is_worth_it(group: TextBatch) -> bool:
    saved = (len(group.texts) - 1) * group.num_shared
    whole = sum(text.num_read for text in group.texts)
    return group.num_shared >= _MIN_SHARED and saved > _MIN_SAVED * whole
