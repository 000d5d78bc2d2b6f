"""Items to rows of tokens, in three splits that share no item.

Plain texts of the same groups are joined, an end-of-text token between two, and cut into rows of
one length. A prompt with its response is a row of its own, and only the response is learnt from.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.data.items import Item, Membership

SPLITS = ("train", "probe", "test")
MIN_ITEMS = 3
"""A group needs one item in each split."""

Tokens = npt.NDArray[np.int32]
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one line of a batch holds."""

    tokens: Tokens  # at least two
    first: int  # the first token that is learnt, at least 1
    num_bytes: float  # of the text that the learnt tokens stand for
    membership: Array  # share in each group, shape (m,)

    @property
    def num_learnt(self) -> int:
        """Tokens that are predicted and count."""
        return len(self.tokens) - self.first

    def as_json(self) -> dict[str, Any]:
        """The row as JSON; `from_json` undoes it."""
        arrays = {"tokens": self.tokens.tolist(), "membership": self.membership.tolist()}
        return {"first": self.first, "num_bytes": self.num_bytes, **arrays}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Row":
        tokens = np.array(fields["tokens"], dtype=np.int32)
        return cls(**fields | {"tokens": tokens, "membership": np.array(fields["membership"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Rows of the three splits."""

    names: tuple[str, ...]  # the groups, sorted
    train: Sequence[Row]  # what the drafter learns from
    probe: Sequence[Row]  # what weights start from and checkpoints are chosen by
    test: Sequence[Row]  # what only the final report sees

    @property
    def num_tokens(self) -> Array:
        """Tokens of each group to learn from, shape (m,)."""
        counts: Array = sum(
            (row.membership * row.num_learnt for row in self.train), np.zeros(len(self.names))
        )
        return counts


def split_items(
    items: Sequence[Item], *, share: float, seed: int, fewest_groups: int = 2
) -> dict[str, list[Item]]:
    """Give each item, in all groups alike, to one split.

    A hash of seed and item decides, so that it depends on neither order nor groups. A split that
    leaves a group without text takes the items whose hash comes nearest. `share`, in (0, 1/3], is
    that of the probe split, and of the test split.

    Raises:
        ConfigError: If there are fewer than `fewest_groups`, or a group has too few items.
    """
    by_group: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for name, _ in item.membership:
            by_group[name].add(item.item)
    if len(by_group) < fewest_groups:
        raise ConfigError(
            f"sharing a speed-up needs at least two groups, got only {', '.join(by_group)}; add "
            "texts of another group"
        )
    rank = {name: _unit_hash(seed, name) for name in {item.item for item in items}}
    places = {
        name: "probe" if value < share else "test" if value < 2 * share else "train"
        for name, value in rank.items()
    }
    for group, names in sorted(by_group.items()):
        if len(names) < MIN_ITEMS:
            raise ConfigError(
                f"group {group!r} has {len(names)} items, but needs {MIN_ITEMS}: one to learn "
                "from, one to choose by, one to report on. Add texts, or separate paragraphs by "
                "empty lines"
            )
        for split in SPLITS:
            taken = Counter(places[name] for name in names)
            if not taken[split]:
                # From a split of this group that keeps another item; groups that share the item
                # move with it, and are looked at again below.
                spare = [name for name in names if taken[places[name]] > 1]
                places[min(spare, key=lambda name: (rank[name], name))] = split
    for group, names in by_group.items():
        for split in SPLITS:
            if all(places[name] != split for name in names):
                raise ConfigError(
                    f"group {group!r} has no text in the {split} split: its few items are needed "
                    "elsewhere by other groups. Add texts, or try another --seed"
                )
    return {split: [x for x in items if places[x.item] == split] for split in SPLITS}


def epoch_order(seed: int, group: str, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """The order in which a group's rows are drawn in one pass over them, shape (size,).

    By name, not by number: what a group is given does not depend on the others.
    """
    key = hashlib.sha256(f"{seed}\0{group}\0{epoch}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:8], "big")).permutation(size)


def _unit_hash(seed: int, name: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def build_corpus(splits: dict[str, list[Item]], encode: Encode, *, eos: int, length: int) -> Corpus:
    """Tokenise the three splits, items with their responses, in rows of at most `length` tokens.

    Raises:
        ConfigError: If a group is left without a row.
    """
    names = tuple(sorted({name for item in splits["train"] for name, _ in item.membership}))
    rows: dict[str, list[Row]] = {}
    for split in SPLITS:
        rows[split] = rows_of(splits[split], names, encode, eos=eos, length=length)
        check_all_present(rows[split], names, split, length)
    return Corpus(names=names, **rows)


def check_all_present(rows: Sequence[Row], names: tuple[str, ...], split: str, length: int) -> None:
    """Refuse rows of which a group has none."""
    present = sum((row.membership for row in rows), np.zeros(len(names)))
    for name, share in zip(names, present, strict=True):
        if not share:
            raise ConfigError(
                f"group {name!r} has no text to learn from in the {split} split: its texts are "
                f"too short, or its prompts fill the row length of {length} tokens"
            )


def chosen_rows(rows: Sequence[Row], per_group: int) -> list[Row]:
    """Up to `per_group` rows of each group, spread evenly over the split."""
    members = np.stack([row.membership for row in rows]) > 0
    chosen: set[int] = set()
    for column in members.T:
        places = np.flatnonzero(column)
        spread = np.linspace(0, len(places) - 1, min(per_group, len(places)))
        chosen |= {int(places[int(place)]) for place in spread.round()}
    return [rows[place] for place in sorted(chosen)]


def rows_of(
    items: Sequence[Item], names: tuple[str, ...], encode: Encode, *, eos: int, length: int
) -> list[Row]:
    """Rows of one split: prompts with their responses first, then joined texts."""
    rows: list[Row] = []
    streams: dict[Membership, list[Item]] = defaultdict(list)
    for item in items:
        if item.prompt:
            rows.extend(_answered(item, names, encode, eos, length))
        else:
            streams[item.membership].append(item)
    for membership, texts in sorted(streams.items()):
        rows.extend(_joined(texts, _shares(membership, names), encode, eos, length))
    return rows


def _shares(membership: Membership, names: tuple[str, ...]) -> Array:
    shares = dict(membership)
    return np.array([shares.get(name, 0.0) for name in names])


def _answered(
    item: Item, names: tuple[str, ...], encode: Encode, eos: int, length: int
) -> list[Row]:
    response = item.response or ""
    prompt, answer = encode(item.prompt), list(item.response_tokens or [*encode(response), eos])
    first = max(len(prompt), 1)
    tokens = [*(prompt or [eos]), *answer][:length]
    if len(tokens) <= first:
        return []
    kept = (len(tokens) - first) / len(answer)
    return [
        Row(
            tokens=np.array(tokens, dtype=np.int32),
            first=first,
            num_bytes=kept * len(response.encode()),
            membership=_shares(item.membership, names),
        )
    ]


def _joined(
    texts: Sequence[Item], membership: Array, encode: Encode, eos: int, length: int
) -> list[Row]:
    tokens: list[int] = []
    sizes: list[float] = []  # bytes that each token stands for
    for item in texts:
        text = item.response or ""
        ids = encode(text)
        tokens += [eos, *ids]
        sizes += [0.0, *[len(text.encode()) / max(len(ids), 1)] * len(ids)]
    return [
        Row(
            tokens=np.array(tokens[start : start + length], dtype=np.int32),
            first=1,
            num_bytes=sum(sizes[start + 1 : start + length]),
            membership=membership,
        )
        for start in range(0, len(tokens) - 1, length)
    ]
