"""Measuring a drafter on fixed rows: teacher-forced sums of each row, whatever the processes."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import SplitModel, live_target
from lm_eval_specfair.training.group_sums import COLUMNS, Sums


def chosen_rows(rows: Sequence[Row], per_group: int) -> list[Row]:
    """Up to `per_group` rows of each group, spread evenly over the split."""
    members = np.stack([row.membership for row in rows]) > 0
    picked: set[int] = set()
    for column in members.T:
        places = np.flatnonzero(column)
        spread = np.linspace(0, len(places) - 1, min(per_group, len(places)))
        picked |= {int(places[int(place)]) for place in spread.round()}
    return [rows[place] for place in sorted(picked)]


@torch.no_grad()
def measure(
    model: nn.Module,
    target: SplitModel,
    rows: Sequence[Row],
    accelerator: Accelerator,
    *,
    micro_rows: int,
) -> Sums:
    """Sums of each row, shape (num_rows,); a collective call.

    Args:
        model: The distiller, as accelerate wrapped it.
        target: The target.
        rows: What is read, the same on all processes.
        accelerator: Tells processes apart.
        micro_rows: Rows that a process holds at once.
    """
    found = torch.zeros((len(rows), len(COLUMNS)), dtype=torch.float64, device=accelerator.device)
    was_training = model.training
    model.eval()
    # All processes make the same number of passes, which FSDP needs: the last ones may be empty of
    # their own rows and repeat the first.
    each = accelerator.num_processes * micro_rows
    for first in range(0, len(rows), each):
        start = first + accelerator.process_index * micro_rows
        numbers = list(range(start, min(start + micro_rows, len(rows))))
        taken = [rows[number] for number in numbers or [0]]
        tokens, counted = collate(taken, accelerator.device)
        weights = torch.zeros(int(counted.sum()), device=accelerator.device)
        _, measured = model(tokens, counted, weights, live_target(target, tokens, counted))
        if numbers:
            found[numbers] = row_sums(measured, counted, taken)
    model.train(was_training)
    total: Tensor = accelerator.reduce(found, reduction="sum")
    return Sums(total.cpu().numpy())


def row_sums(measured: Tensor, counted: Tensor, rows: Sequence[Row]) -> Tensor:
    """Sums of each row from its positions'.

    Args:
        measured: Cross-entropy, entropy and overlap, shape (positions, 3).
        counted: Which predictions the positions are, shape (rows, length - 1).
        rows: The rows.

    Returns:
        Shape (rows, num_columns), fp64.
    """
    row_of = counted.nonzero()[:, 0]
    sums = measured.new_zeros((len(rows), len(COLUMNS)))
    sums[:, 0] = counted.sum(1)
    sums[:, 1] = torch.tensor([row.num_bytes for row in rows], dtype=sums.dtype)
    sums[:, 2:].index_add_(0, row_of, measured)
    return sums
