"""The training loop: draw, weigh, learn, probe, keep the best; resumable to the same bits."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lm_eval_specfair.distributed import agreed
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.training.artifacts import checkpoint
from lm_eval_specfair.training.artifacts.train_results import TrainingResult
from lm_eval_specfair.training.artifacts.training_log import TrainingLog, progress_text
from lm_eval_specfair.training.checkpoint_choice import CheckpointChoice
from lm_eval_specfair.training.data.batches import Batches
from lm_eval_specfair.training.data.rows import Corpus, Row, chosen_rows
from lm_eval_specfair.training.distil import Teacher
from lm_eval_specfair.training.group_sums import GroupSums
from lm_eval_specfair.training.inputs import TrainingJob
from lm_eval_specfair.training.model_setup import prepare, rate_factor
from lm_eval_specfair.training.train_step import Passes

logger = logging.getLogger(__name__)

T = TypeVar("T")

WriteRows = Callable[[PreTrainedModel, int], Sequence[Row]]
"""On-policy: new rows that the drafter writes as it is now, at the step of this number."""


class Trainer:
    """Trains one drafter in place; its weights end as those of the step that is kept."""

    def __init__(
        self,
        job: TrainingJob,
        teacher: Teacher,
        corpus: Corpus,
        accelerator: Accelerator,
        *,
        cost_ratio: float,
        probe_teacher: Teacher | None = None,
        write_rows: WriteRows | None = None,
    ) -> None:
        """Set everything up; nothing is computed yet.

        Probes are measured against `probe_teacher`, by default the teacher. `write_rows` writes the
        training rows anew at each probe, in the main process. `cost_ratio` is a draft pass over a
        target pass. The job's folder exists; checkpoint and log go there.

        Raises:
            ConfigError: If the batch does not divide among the processes, or the drafter cannot
                recompute hidden states.
        """
        self._accelerator, self._corpus = accelerator, corpus
        self._drafter, self._config, self._folder = job.drafter, job.config, job.folder
        self._write_rows, self._weighting, self._cost_ratio = write_rows, job.weighting, cost_ratio
        config, probe_teacher = job.config, probe_teacher or teacher
        self._model, self._optimizers = prepare(job.drafter, config, accelerator, job.distiller)
        self._passes = Passes(accelerator, self._model, teacher, probe_teacher, config.micro_rows)
        self._batches = Batches(corpus, rows=config.rows, seed=config.seed)
        self._choice = CheckpointChoice(tolerance=config.tolerance)
        self._log = TrainingLog(job.folder, accelerator, corpus.names)
        self._step = 0
        self._before = GroupSums.zeros(0)

    def run(self, *, stop_after: int | None = None) -> TrainingResult | None:
        """Train from the last checkpoint, or from the start.

        `stop_after` stops at this step, with a checkpoint, as a kill would, and gives None.

        Raises:
            ConfigError: If the loss or its gradient is no longer finite, or the disk is full.
        """
        config, names = self._config, self._corpus.names
        test = chosen_rows(self._corpus.test, config.probe_rows)
        if not self._resume():
            self._before = self._passes.measure(test)
            self._begin()
        cadence = checkpoint.CheckpointCadence(config.checkpoint_seconds)
        self._model.train()
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
                self._log.step(self._step, loss, weights, sums, time.monotonic() - began)
                progress.set_postfix_str(progress_text(names, loss, sums), False)
                progress.update()
                is_last = self._step == config.num_steps
                is_probed = is_last or self._step % config.probe_every == 0
                if is_probed:
                    self._probe()
                if is_probed or self._agreed(cadence.is_due):
                    cadence.saving(self._save)
                if self._step == stop_after:
                    self._save()
                    return None
        if self._choice.step != self._step:
            best = checkpoint.read(self._best)
            assert best is not None
            checkpoint.restore(self._drafter, best[0])
        return TrainingResult(
            names=names,
            test_rows=test,
            before=self._before,
            after=self._passes.measure(test),
            num_tokens=self._corpus.num_tokens,
            kept_step=self._choice.step,
            num_steps=self._step,
            cost_ratio=self._cost_ratio,
        )

    def _learn(self) -> tuple[float, GroupSums, Array]:
        """One batch: its loss, what it measured by group, and the weights it was given."""
        # Dropout draws from the global generator: the same numbers after a resumption.
        torch.manual_seed(self._config.seed * 1_000_003 + self._step)
        weighting, batches = self._weighting, self._batches
        if weighting.measures_first:
            # Shares don't depend on what is measured: groups are drawn alike, or by old weights.
            m = len(self._corpus.names)
            batch = batches.draw(weighting.sampling(np.full(m, 1 / m)))
            with torch.no_grad():
                _, sums = self._passes.run(batch, np.zeros(len(batch.rows)))
            weighting.observe(sums)
            weights = weighting.weights()
        else:
            weights = weighting.weights()
            batch = batches.draw(weighting.sampling(weights))
        loss, sums = self._passes.run(batch, batch.row_weights(weights))
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}")
        if not weighting.measures_first:
            weighting.observe(sums)
        self._update()
        return loss, sums, weights

    def _update(self) -> None:
        config, parameters = self._config, self._model.parameters()
        norm = self._accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        if norm is not None and not bool(torch.isfinite(norm)):
            raise self._diverged("the gradient is not finite")
        rate = config.learning_rate * rate_factor(self._step, config)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()

    def _diverged(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{reason} at step {self._step + 1}: lower --learning-rate (it is "
            f"{self._config.learning_rate:g}) and start anew in another --out; the last good "
            f"checkpoint is kept in {self._folder}"
        )

    def _probed(self) -> tuple[GroupSums, Array]:
        """Groups' sums on the probe split, and their textbook speed-ups."""
        rows = chosen_rows(self._corpus.probe, self._config.probe_rows)
        membership = np.stack([row.membership for row in rows])
        sums = self._passes.measure(rows).by_group(membership)
        return sums, sums.speedup(self._config.num_speculative_tokens, self._cost_ratio)

    def _begin(self) -> None:
        sums, speedups = self._probed()
        self._weighting.start(self._corpus.names, self._corpus.num_tokens, sums)
        self._choice.start(speedups)
        self._log.probe(0, sums, speedups, kept=True)
        self._refresh_rows()
        self._keep()
        self._save()

    def _probe(self) -> None:
        sums, speedups = self._probed()
        kept = self._choice.offer(self._step, speedups)
        self._log.probe(self._step, sums, speedups, kept=kept)
        if kept:
            self._keep()
        if self._step < self._config.num_steps:
            self._refresh_rows()

    def _refresh_rows(self) -> None:
        write_rows, drafter, step = self._write_rows, self._drafter, self._step
        if write_rows is not None:
            self._model.eval()
            self._take_rows(self._agreed(lambda: write_rows(drafter, step)))
            self._model.train()

    def _take_rows(self, rows: Sequence[Row]) -> None:
        state = self._batches.state()
        self._corpus = replace(self._corpus, train=rows)
        self._batches = Batches(self._corpus, rows=self._config.rows, seed=self._config.seed)
        self._batches.restore(state)

    @property
    def _best(self) -> Path:
        return self._folder / "best"

    def _keep(self) -> None:
        self._write(self._best, checkpoint.model_tensors(self._drafter), {"step": self._step})

    def _save(self) -> None:
        tensors = checkpoint.model_tensors(self._drafter)
        tensors |= checkpoint.optimizer_tensors(self._drafter, self._optimizers)
        # Rows that the drafter wrote cannot be made again.
        written = self._corpus.train if self._write_rows else ()
        numbers = {
            "step": self._step,
            "weighting": self._weighting.state(),
            "batches": self._batches.state(),
            "choice": asdict(self._choice),
            "before": self._before.values.tolist(),
            "rows": [row.as_json() for row in written],
        }
        self._write(self._folder / "checkpoint", tensors, numbers)

    def _write(self, path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write on one process; where that fails, all of them stop."""
        self._agreed(lambda: checkpoint.write(path, tensors, numbers))

    def _resume(self) -> bool:
        saved = checkpoint.read(self._folder / "checkpoint")
        if saved is None:
            self._log.cut(-1)
            return False
        tensors, numbers = saved
        checkpoint.restore(self._drafter, tensors, self._optimizers)
        self._step = numbers["step"]
        self._before = GroupSums(np.array(numbers["before"]))
        sums = GroupSums.zeros(len(self._corpus.names))
        self._weighting.start(self._corpus.names, self._corpus.num_tokens, sums)
        self._weighting.restore(numbers["weighting"])
        self._batches.restore(numbers["batches"])
        self._choice = CheckpointChoice(**numbers["choice"])
        if numbers["rows"]:
            self._take_rows([Row.from_json(fields) for fields in numbers["rows"]])
        self._log.cut(self._step)
        logger.warning("resuming from step %d of %d", self._step, self._config.num_steps)
        return True

    def _agreed(self, decide: Callable[[], T]) -> T:
        """What the main process decides, on all processes."""
        return agreed(decide, self._accelerator.process_index, self._accelerator.num_processes)
