"""Snapshots of recurrent states by row and position: what a row's roll-back goes to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# The states of a model: for each object that holds some, its attributes by name. Tensors lie in
# them at any depth, their first axis being the rows; whatever else there is belongs to all rows.
States = list[dict[str, Any]]


# More than any draft is long. A row that goes back further is read again from its beginning.
MOST_SNAPSHOTS = 64


def map_tensors(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to the tensors at one place of several structures of the same shape."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if isinstance(first, dict):
        return {key: map_tensors(function, *(value[key] for value in values)) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(map_tensors(function, *parts) for parts in zip(*values, strict=True))
    return first


@dataclass(slots=True, eq=False)
class _Snapshot:
    """States after one pass, and where in them a row is: its index, and its number of tokens."""

    states: States
    places: dict[int, tuple[int, int]] = field(default_factory=dict)


class RowStates:
    """States of rows at some of the positions that they passed, the latest among them.

    Nothing is copied until a row's states are read again.
    """

    def __init__(self) -> None:
        self._snapshots: list[_Snapshot] = []

    def keep(self, states: States, places: dict[int, tuple[int, int]]) -> None:
        """Keep states after a pass; `places` gives rows their index in them and their length."""
        if places:
            self._snapshots.append(_Snapshot(states, dict(places)))
        if len(self._snapshots) > MOST_SNAPSHOTS:
            oldest = self._snapshots[0]
            for row in list(oldest.places):
                if self._latest(row) is not oldest:
                    del oldest.places[row]
            self._snapshots = [each for each in self._snapshots if each.places]

    def position(self, row: int) -> int:
        """Tokens of a row that its latest states have read; 0 if there are none."""
        found = self._latest(row)
        return found.places[row][1] if found else 0

    def gather(self, rows: Sequence[int]) -> States:
        """A copy of the latest states of rows that have some, in their order."""
        found = [self._latest(row) for row in rows]
        snapshots = [snapshot for snapshot in found if snapshot]
        if len(snapshots) < len(rows):
            raise KeyError(f"no states of some of the rows {list(rows)}")
        indices = [snapshot.places[row][0] for snapshot, row in zip(snapshots, rows, strict=True)]
        if all(snapshot is snapshots[0] for snapshot in snapshots):
            return map_tensors(  # type: ignore[no-any-return]
                lambda x: x[torch.tensor(indices, device=x.device)], snapshots[0].states
            )
        return map_tensors(  # type: ignore[no-any-return]
            lambda *x: torch.stack([one[index] for one, index in zip(x, indices, strict=True)]),
            *(snapshot.states for snapshot in snapshots),
        )

    def roll_back(self, row: int, length: int) -> None:
        """Forget a row's states after more tokens than this."""
        self._forget(row, lambda position: position > length)

    def settle(self, row: int) -> None:
        """Forget all but a row's latest states: it will not be rolled back any further."""
        latest = self.position(row)
        self._forget(row, lambda position: position < latest)

    def drop(self, row: int) -> None:
        self._forget(row, lambda position: True)

    def move(self, source: int, destination: int) -> None:
        """Give a row's states to another row, in place of that one's."""
        self.drop(destination)
        for snapshot in self._snapshots:
            if source in snapshot.places:
                snapshot.places[destination] = snapshot.places.pop(source)

    def _latest(self, row: int) -> _Snapshot | None:
        having = [snapshot for snapshot in self._snapshots if row in snapshot.places]
        return max(having, key=lambda snapshot: snapshot.places[row][1], default=None)

    def _forget(self, row: int, is_unwanted: Callable[[int], bool]) -> None:
        for snapshot in self._snapshots:
            if row in snapshot.places and is_unwanted(snapshot.places[row][1]):
                del snapshot.places[row]
        self._snapshots = [snapshot for snapshot in self._snapshots if snapshot.places]
