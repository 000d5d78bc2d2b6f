"""The training loop: draw, weigh, learn, probe, keep the best; resumable to the same result."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lm_eval_specfair.processes import agreed
from lm_eval_specfair.training import checkpoint
from lm_eval_specfair.training.choice import Choice
from lm_eval_specfair.training.data.batches import Batches
from lm_eval_specfair.training.data.rows import Corpus, Row
from lm_eval_specfair.training.group_sums import Array, Sums
from lm_eval_specfair.training.learner import Learner
from lm_eval_specfair.training.log import TrainingLog, progress_text
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.passes import Passes
from lm_eval_specfair.training.prepared import prepare
from lm_eval_specfair.training.probe import chosen_rows, measure
from lm_eval_specfair.training.teacher_cache import Cache
from lm_eval_specfair.training.weighting import parse

logger = logging.getLogger(__name__)

T = TypeVar("T")

Refresh = Callable[[PreTrainedModel, int], Sequence[Row]]
"""On-policy: new rows that the drafter writes as it is now, at the step of this number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What training did.

    Attributes:
        names: The groups.
        test_rows: The rows that `before` and `after` were measured on.
        before: Sums of each, of the drafter that came in.
        after: The same, of the drafter that is kept.
        num_tokens: Tokens of training text of each group, shape (m,).
        kept_step: Its step; 0 if no step was better than the start.
        num_steps: Steps that were made.
        cost_ratio: A draft pass over a target pass, in modelled speed-ups.
    """

    names: tuple[str, ...]
    test_rows: Sequence[Row]
    before: Sums
    after: Sums
    num_tokens: Array
    kept_step: int
    num_steps: int
    cost_ratio: float


class Trainer:
    """Trains one drafter; its weights end as those of the step that is kept."""

    def __init__(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        corpus: Corpus,
        config: TrainConfig,
        folder: Path,
        *,
        accelerator: Accelerator | None = None,
        refresh: Refresh | None = None,
        cache: Cache | None = None,
    ) -> None:
        """Set everything up; nothing is computed yet.

        Args:
            target: Frozen; it is moved to the accelerator's device.
            drafter: Trained in place. Parameters that need no gradient stay as they are.
            corpus: What is learnt from, probed on and reported on.
            config: How.
            folder: Where checkpoint and log go; exists.
            accelerator: Devices, processes and precision; made from `config` by default.
            refresh: Writes the training rows anew at each probe; on-policy training. Called by the
                main process only.
            cache: The target's distributions at the training rows, instead of running it.

        Raises:
            ConfigError: If the batch does not divide among the processes, these share work in a way
                that is not known here, or the drafter cannot recompute hidden states.
        """
        self._accelerator = accelerator or Accelerator(
            cpu=not torch.accelerator.is_available(), mixed_precision=config.mixed_precision
        )
        self._config, self._corpus, self._folder = config, corpus, folder
        self._refresh = refresh
        self._models = prepare(target, drafter, config, self._accelerator)
        self._weighting = parse(config.weighting)
        self._batches = Batches(corpus, rows=config.rows, seed=config.seed)
        self._choice = Choice(config.tolerance)
        self._log = TrainingLog(folder, self._accelerator)
        self._step = 0
        self._before = Sums.zeros(0)
        models = self._models
        passes = Passes(
            self._accelerator, models.model, models.target, config.micro_rows, cache, corpus.train
        )
        self._learner = Learner(models, passes, self._weighting, config, folder)

    def run(self, *, stop_after: int | None = None) -> Outcome | None:
        """Train from the last checkpoint, or from the start.

        Args:
            stop_after: Stop at this step, with a checkpoint, as a kill would; for tests.

        Returns:
            What it did; None if it was stopped.

        Raises:
            ConfigError: If the loss is no number any more, or the disk is full.
        """
        config = self._config
        test = chosen_rows(self._corpus.test, config.probe_rows)
        if not self._resume():
            self._before = self._measure(test)
            self._begin()
        saved = time.monotonic()
        self._models.model.train()
        with tqdm(
            total=config.num_steps,
            initial=self._step,
            disable=not self._accelerator.is_main_process,
            desc="Training",
            unit="step",
            mininterval=2,
        ) as progress:
            while self._step < config.num_steps:
                began = time.monotonic()
                loss, sums, weights = self._learn()
                self._step += 1
                self._log.step(
                    self._step, loss, self._corpus.names, weights, sums, time.monotonic() - began
                )
                progress.set_postfix_str(progress_text(self._corpus.names, loss, sums), False)
                progress.update()
                probes = self._is_probed(self._step)
                if probes:
                    self._probe()
                if probes or self._is_due(saved):
                    self._save()
                    saved = time.monotonic()
                if self._step == stop_after:
                    self._save()
                    return None
        if self._choice.step != self._step:
            best = checkpoint.read(self._best)
            assert best is not None
            checkpoint.set_model_tensors(self._models.model, best[0])
        return Outcome(
            names=self._corpus.names,
            test_rows=test,
            before=self._before,
            after=self._measure(test),
            num_tokens=self._corpus.num_tokens,
            kept_step=self._choice.step,
            num_steps=self._step,
            cost_ratio=self._models.cost_ratio,
        )

    def whole_drafter(self) -> PreTrainedModel:
        """The drafter as it is now, whole on the main process; a collective call."""
        return self._models.whole_drafter()

    def _learn(self) -> tuple[float, Sums, Array]:
        return self._learner.learn(self._batches, self._step)

    # ------------------------------------------------------------------ probes

    def _is_probed(self, step: int) -> bool:
        return step % self._config.probe_every == 0 or step == self._config.num_steps

    def _measure(self, rows: Sequence[Row]) -> Sums:
        return measure(
            self._models.model,
            self._models.target,
            rows,
            self._accelerator,
            micro_rows=self._config.micro_rows,
        )

    def _probed(self) -> tuple[Sums, Array]:
        """Groups' sums on the probe split, and their modelled speed-ups."""
        rows = chosen_rows(self._corpus.probe, self._config.probe_rows)
        membership = np.stack([row.membership for row in rows])
        sums = self._measure(rows).by_group(membership)
        return sums, sums.speedup(self._config.num_speculative_tokens, self._models.cost_ratio)

    def _begin(self) -> None:
        sums, speedups = self._probed()
        self._weighting.start(self._corpus.names, self._corpus.num_tokens, sums)
        self._choice.start(speedups)
        self._log.probe(0, self._corpus.names, sums, speedups, kept=True)
        self._refresh_rows()
        self._keep()
        self._save()

    def _probe(self) -> None:
        sums, speedups = self._probed()
        kept = self._choice.offer(self._step, speedups)
        self._log.probe(self._step, self._corpus.names, sums, speedups, kept=kept)
        if kept:
            self._keep()
        if self._step < self._config.num_steps:
            self._refresh_rows()

    def _refresh_rows(self) -> None:
        refresh, step = self._refresh, self._step
        if refresh is None:
            return
        self._models.model.eval()
        drafter = self.whole_drafter().eval()
        self._take_rows(self._agreed(lambda: refresh(drafter, step)))
        self._models.model.train()

    def _take_rows(self, rows: Sequence[Row]) -> None:
        old, state = self._corpus, self._batches.state()
        self._corpus = Corpus(names=old.names, train=rows, probe=old.probe, test=old.test)
        self._batches = Batches(self._corpus, rows=self._config.rows, seed=self._config.seed)
        self._batches.restore(state)

    # ------------------------------------------------------------------ state

    @property
    def _best(self) -> Path:
        return self._folder / "best"

    def _keep(self) -> None:
        tensors = checkpoint.model_tensors(self._models.model)
        self._write(self._best, tensors, {"step": self._step})

    def _save(self) -> None:
        optimizers = [each.optimizer for each in self._models.optimizers]
        tensors = checkpoint.all_tensors(self._models.model, optimizers)
        if self._refresh is not None:
            tensors |= checkpoint.rows_as_tensors(self._corpus.train)
        numbers = {
            "step": self._step,
            "weighting": self._weighting.state(),
            "batches": self._batches.state(),
            "choice": self._choice.state(),
            "before": self._before.values.tolist(),
        }
        self._write(self._folder / "checkpoint", tensors, numbers)

    def _write(self, path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write on one process; where that fails, all of them stop."""
        self._agreed(lambda: checkpoint.write(path, tensors, numbers))

    def _resume(self) -> bool:
        found = checkpoint.read(self._folder / "checkpoint")
        if found is None:
            self._log.cut(-1)
            return False
        tensors, numbers = found
        optimizers = [each.optimizer for each in self._models.optimizers]
        rows = checkpoint.rows_from_tensors(tensors)
        checkpoint.set_all_tensors(self._models.model, optimizers, tensors)
        self._step = numbers["step"]
        self._before = Sums(np.array(numbers["before"]))
        sums = Sums.zeros(len(self._corpus.names))
        self._weighting.start(self._corpus.names, self._corpus.num_tokens, sums)
        self._weighting.restore(numbers["weighting"])
        self._batches.restore(numbers["batches"])
        self._choice.restore(numbers["choice"])
        if rows:
            self._take_rows(rows)
        self._log.cut(self._step)
        logger.warning("going on from step %d of %d", self._step, self._config.num_steps)
        return True

    def _is_due(self, saved: float) -> bool:
        return self._agreed(lambda: time.monotonic() - saved > self._config.checkpoint_seconds)

    def _agreed(self, decide: Callable[[], T]) -> T:
        """What the main process decides, on all processes."""
        return agreed(decide, self._accelerator.process_index, self._accelerator.num_processes)
