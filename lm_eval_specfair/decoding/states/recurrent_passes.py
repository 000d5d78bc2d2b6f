"""The passes of a model with recurrent states: no padding and no rejected token enters a state.

Each row has states at some of the positions that it has passed. What was kept since is read again
from there, in front of the next block (mode "block"), or nothing is left to be read again, since
states are kept after every single token (mode "token").
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lm_eval_specfair.decoding.states.state_cache import StateCache
from lm_eval_specfair.decoding.states.state_forward import StateForward

Mode = Literal["block", "token"]
# Most tokens of prompts in one pass, unless one prompt is longer.
MAX_PROMPT_TOKENS = 2048
# A row's kept tokens are read anew in front of each block until there are this many blocks of them.
MOST_BLOCKS_AGAIN = 2


class RecurrentPasses:
    """Reads prompts and scores blocks for the rows of a `StateCache`."""

    def __init__(
        self, forward: StateForward, *, device: torch.device, mode: Mode, reads_late: bool
    ) -> None:
        """Make a model's passes.

        Args:
            forward: The passes themselves.
            device: Where token ids go.
            mode: Whether a block of several tokens is read in one pass, or one token at a time.
            reads_late: Whether a prompt is read with the first token of the first block, for
                models that read a prompt's last token otherwise than the following ones.
        """
        self._forward, self._device = forward, device
        self._mode, self._reads_late = mode, reads_late

    def read(self, cache: StateCache, rows: list[int], prompts: list[list[int]]) -> None:
        """Fill empty rows with prompts, of any lengths, 0 included."""
        cache.lengths += [0] * (max(rows) + 1 - len(cache.lengths))
        for row, prompt in zip(rows, prompts, strict=True):
            cache.row_states.drop(row)
            cache.texts[row] = list(prompt)
            cache.lengths[row] = len(prompt)
        if not self._reads_late:
            self._read(cache, [row for row in rows if cache.texts[row]])

    def score(self, cache: StateCache, blocks: list[list[int]], is_verified: bool) -> list[Tensor]:
        """Scores of each row's block, shape (its length, vocab), for rows 0, 1, ...

        Args:
            cache: Its lengths say how much of each row is kept, at present.
            blocks: At least one token of each row, the first of which is kept in any case.
            is_verified: Whether rows won't be rolled back behind their present lengths, and the
                blocks, all of one length, are drafts to verify.
        """
        states, texts = cache.row_states, cache.texts
        for row in range(len(blocks)):
            texts[row] = texts[row][: cache.lengths[row]]
            states.roll_back(row, cache.lengths[row])
            if is_verified:
                states.settle(row)
        parts: list[list[Tensor]] = [[] for _ in blocks]
        without = [row for row in range(len(blocks)) if not states.position(row)]
        for row in without:
            texts[row] = texts[row] + blocks[row][:1]
        for row, scores in self._read(cache, without).items():
            parts[row].append(scores)
        again = {
            row: texts[row][states.position(row) :]
            for row in range(len(blocks))
            if row not in without
        }
        new = {row: block[row in without :] for row, block in enumerate(blocks)}
        if self._mode == "block" and is_verified:
            most = MOST_BLOCKS_AGAIN * len(blocks[0])
            while (longest := max(map(len, again.values()), default=0)) > most:
                width = min(len(tokens) for tokens in again.values() if len(tokens) > longest / 2)
                self._pass(
                    cache,
                    [
                        again[row][:width] if len(again.get(row, ())) >= width else []
                        for row in range(len(blocks))
                    ],
                )
                again = {row: texts[row][states.position(row) :] for row in again}
        feeds = [again.get(row, []) + new[row] for row in range(len(blocks))]
        read: list[list[Tensor]] = [[] for _ in blocks]
        while any(feeds):
            if self._mode == "token":
                width = 1
            elif is_verified:
                width = max(map(len, feeds))
            else:
                width = min(len(feed) for feed in feeds if feed)
            scores = self._pass(cache, [feed[:width] for feed in feeds])
            for row, feed in enumerate(feeds):
                if feed:
                    read[row].append(scores[row, : len(feed[:width])])
            feeds = [feed[width:] for feed in feeds]
        results = []
        for row, block in enumerate(blocks):
            num_again = len(again.get(row, ()))
            parts[row] += [torch.cat(read[row])[num_again:]] if read[row] else []
            results.append(torch.cat(parts[row]))
            texts[row] = texts[row] + new[row]
            assert len(results[-1]) == len(block)
        return results

    def _read(self, cache: StateCache, rows: Sequence[int]) -> dict[int, Tensor]:
        """Read the texts of rows without states; each row's scores after its last token."""
        scores: dict[int, Tensor] = {}
        for group in _of_one_length({row: len(cache.texts[row]) for row in rows}):
            tokens = torch.tensor([cache.texts[row] for row in group], device=self._device)
            width = tokens.shape[1]
            positions = torch.arange(width, device=self._device).expand(len(group), -1)
            cache.aim(group, positions, is_prompt=True)
            cache.begin(None)
            after = self._forward.read(tokens, cache)
            scores.update(zip(group, after[:, -1:], strict=True))
            cache.row_states.keep(
                cache.states, {row: (index, width) for index, row in enumerate(group)}
            )
        return scores

    def _pass(self, cache: StateCache, feeds: list[list[int]]) -> Tensor:
        """Read tokens after each row's states; of rows with fewer than most, no state is kept."""
        width, count = max(map(len, feeds)), len(feeds)
        starts = [cache.row_states.position(row) for row in range(count)]
        padded = [feed + [0] * (width - len(feed)) for feed in feeds]
        first = torch.tensor(starts, device=self._device)[:, None]
        positions = first + torch.arange(width, device=self._device)
        # Entries are written where the states are, not where the row's kept text ends.
        lengths, cache.lengths = cache.lengths, starts
        cache.aim(list(range(count)), positions, is_prompt=False)
        cache.lengths = lengths
        cache.begin(cache.row_states.gather(range(count)))
        scores = self._forward.score(torch.tensor(padded, device=self._device), cache)
        cache.row_states.keep(
            cache.states,
            {row: (row, starts[row] + len(feeds[row])) for row in _without_padding(feeds)},
        )
        return scores


def _without_padding(feeds: list[list[int]]) -> list[int]:
    """Rows whose states after a pass are those after their own tokens alone."""
    width = max(map(len, feeds))
    return [row for row, feed in enumerate(feeds) if len(feed) == width]


def _of_one_length(lengths: dict[int, int]) -> list[list[int]]:
    """Rows in groups of equal lengths, the longest first, each small enough for one pass."""
    groups: list[list[int]] = []
    for row in sorted(lengths, key=lambda row: (-lengths[row], row)):
        length = lengths[row]
        if (
            groups
            and lengths[groups[-1][0]] == length
            and length * (len(groups[-1]) + 1) <= MAX_PROMPT_TOKENS
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
