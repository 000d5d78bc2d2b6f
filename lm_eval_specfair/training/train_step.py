"""Passes over rows: in parts, on several processes, with gradients or not; one sum of all."""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.data.batches import Batch, collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import Teacher
from lm_eval_specfair.training.group_sums import COLUMNS, GroupSums


class Passes:
    """Runs the distiller, as accelerate wrapped it, and a teacher over `micro_rows` rows at once.

    `teacher` is what batches are learnt from, `probe_teacher` what rows are measured against.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        teacher: Teacher,
        probe_teacher: Teacher,
        micro_rows: int,
    ) -> None:
        self._accelerator, self._model, self._micro_rows = accelerator, model, micro_rows
        self._teacher, self._probe_teacher = teacher, probe_teacher

    def run(self, batch: Batch, row_weights: Array) -> tuple[float, GroupSums]:
        """Forward over a batch in parts, and backward unless gradients are off; a collective call.

        The batch is the same on all processes, `row_weights` what each token of a row weighs, shape
        (rows,). Gives the weighted loss, and the groups' sums, shape (m,).
        """
        loss, by_row = self._run(self._model, self._teacher, batch.rows, row_weights)
        return loss, by_row.by_group(batch.membership)

    @torch.no_grad()
    def measure(self, rows: Sequence[Row]) -> GroupSums:
        """Sums of each row, without dropout, shape (num_rows,); a collective call."""
        was_training = self._model.training
        self._model.eval()
        # DDP's own forward would wait for processes that have fewer rows.
        module = self._accelerator.unwrap_model(self._model)
        _, by_row = self._run(module, self._probe_teacher, rows, np.zeros(len(rows)))
        self._model.train(was_training)
        return by_row

    def _run(
        self, model: nn.Module, teacher: Teacher, rows: Sequence[Row], row_weights: Array
    ) -> tuple[float, GroupSums]:
        accelerator, learns = self._accelerator, torch.is_grad_enabled()
        device, processes = accelerator.device, accelerator.num_processes
        mine = range(accelerator.process_index, len(rows), processes)
        parts = [mine[n : n + self._micro_rows] for n in range(0, len(mine), self._micro_rows)]
        loss = torch.zeros((), dtype=torch.float64, device=device)
        sums = torch.zeros((len(rows), len(COLUMNS)), dtype=torch.float64, device=device)
        for number, part in enumerate(parts):
            taken = [rows[place] for place in part]
            tokens, counted = collate(taken, device)
            # DDP averages gradients over processes; ours are parts of one sum.
            weights = torch.from_numpy(row_weights[list(part)] * processes).to(device)
            of_position = weights[counted.nonzero()[:, 0]]
            with accelerator.autocast():
                target = teacher.read(tokens, counted, taken)
            is_last = number == len(parts) - 1
            waits = learns and not is_last
            with accelerator.no_sync(model) if waits else contextlib.nullcontext():
                part_loss, measured = model(tokens, counted, of_position, target)
                if learns:
                    accelerator.backward(part_loss)
            loss += part_loss.detach() / processes
            sums[list(part)] = row_sums(measured, counted, taken)
        total: Tensor = accelerator.reduce(loss, reduction="sum")
        by_row: Tensor = accelerator.reduce(sums, reduction="sum")
        return float(total), GroupSums(by_row.cpu().numpy())


def row_sums(measured: Tensor, counted: Tensor, rows: Sequence[Row]) -> Tensor:
    """Sums of each row, fp64, from what `chunked_loss` measured at its counted positions."""
    row_of = counted.nonzero()[:, 0]
    sums = measured.new_zeros((len(rows), len(COLUMNS)))
    sums[:, 0] = counted.sum(1)
    sums[:, 1] = torch.tensor([row.num_bytes for row in rows], dtype=sums.dtype)
    sums[:, 2:].index_add_(0, row_of, measured)
    return sums
