"""Passes over a batch: in parts, on several processes, with gradients or not; one sum of all."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lm_eval_specfair.training.data.batches import Batch, collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import SplitModel, live_target
from lm_eval_specfair.training.group_sums import COLUMNS, Array, Sums
from lm_eval_specfair.training.losses import TargetScores
from lm_eval_specfair.training.probe import row_sums
from lm_eval_specfair.training.teacher_cache import Cache


class Passes:
    """Runs target and drafter over batches."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        target: SplitModel,
        micro_rows: int,
        cache: Cache | None,
        cached_rows: Sequence[Row],
    ) -> None:
        """Set up.

        Args:
            accelerator: Devices, processes and precision.
            model: The distiller, as accelerate wrapped it.
            target: The target.
            micro_rows: Rows that a process holds at once.
            cache: The target's distributions at `cached_rows`, instead of running it.
            cached_rows: The rows of the cache, in its order.
        """
        self._accelerator, self._model, self._target = accelerator, model, target
        self._micro_rows, self._cache = micro_rows, cache
        self._numbers = {id(row): number for number, row in enumerate(cached_rows)}

    def run(self, batch: Batch, row_weights: Array) -> tuple[float, Sums]:
        """Forward over a batch in parts, and backward unless gradients are off; a collective call.

        Args:
            batch: The same on all processes; each takes its own rows.
            row_weights: What each token of a row weighs, shape (rows,).

        Returns:
            The weighted loss, and the groups' sums, shape (m,).
        """
        accelerator, learns = self._accelerator, torch.is_grad_enabled()
        processes = accelerator.num_processes
        mine = range(accelerator.process_index, len(batch.rows), processes)
        size = self._micro_rows
        parts = [mine[first : first + size] for first in range(0, len(mine), size)]
        loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        sums = torch.zeros((len(batch.rows), len(COLUMNS)), dtype=torch.float64)
        sums = sums.to(accelerator.device)
        for number, part in enumerate(parts):
            rows = [batch.rows[place] for place in part]
            tokens, counted = collate(rows, accelerator.device)
            row_of = counted.nonzero()[:, 0]
            # DDP and FSDP average gradients over processes; ours are parts of one sum.
            scaled = torch.from_numpy(row_weights[list(part)] * processes).to(accelerator.device)
            weights = scaled[row_of].to(
                torch.promote_types(self._target.model.dtype, torch.float32)
            )
            target = self._target_side(rows, tokens, counted)
            with _no_sync(accelerator, self._model, learns and number < len(parts) - 1):
                part_loss, measured = self._model(tokens, counted, weights, target)
                if learns:
                    accelerator.backward(part_loss)
            loss += part_loss.detach() / processes
            sums[list(part)] = row_sums(measured, counted, rows)
        total: Tensor = accelerator.reduce(loss, reduction="sum")
        by_row: Tensor = accelerator.reduce(sums, reduction="sum")
        return float(total), Sums(by_row.cpu().numpy()).by_group(batch.membership)

    def _target_side(self, rows: Sequence[Row], tokens: Tensor, counted: Tensor) -> TargetScores:
        if self._cache is None:
            return live_target(self._target, tokens, counted)
        return self._cache.of_rows([self._numbers[id(row)] for row in rows], tokens.device)


def _no_sync(accelerator: Accelerator, model: nn.Module, wanted: bool) -> Any:
    return accelerator.no_sync(model) if wanted else contextlib.nullcontext()
