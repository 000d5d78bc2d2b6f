"""One step: weigh the groups, draw a batch, learn from it."""

import math
from pathlib import Path

import numpy as np
import torch

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.batches import Batches
from lm_eval_specfair.training.group_sums import Array, Sums
from lm_eval_specfair.training.optim import rate_factor
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.passes import Passes
from lm_eval_specfair.training.prepared import Prepared
from lm_eval_specfair.training.weighting import Weighting


class Learner:
    """Takes steps; knows neither probes nor checkpoints."""

    def __init__(
        self,
        models: Prepared,
        passes: Passes,
        weighting: Weighting,
        config: TrainConfig,
        folder: Path,
    ) -> None:
        """Set up.

        Args:
            models: The pair.
            passes: Runs it over batches.
            weighting: Weighs the groups; it observes each batch.
            config: How it is trained.
            folder: Where the last good checkpoint is, for messages.
        """
        self._models, self._passes, self._weighting = models, passes, weighting
        self._config, self._folder = config, folder

    def learn(self, batches: Batches, step: int) -> tuple[float, Sums, Array]:
        """One batch: its loss, what it measured by group, and the weights it was given.

        Args:
            batches: Where it is drawn.
            step: Steps made before.

        Raises:
            ConfigError: If the loss or its gradient is no number any more.
        """
        # Dropout draws from the global generator: the same numbers after a resumption.
        torch.manual_seed(self._config.seed * 1_000_003 + step)
        weighting = self._weighting
        if weighting.measures_first:
            # Shares don't depend on what is measured: groups are drawn alike, or by old weights.
            batch = batches.draw(weighting.sampling(batches.equal_shares))
            with torch.no_grad():
                _, sums = self._passes.run(batch, np.zeros(len(batch.rows)))
            weighting.observe(sums)
            weights = weighting.weights()
        else:
            weights = weighting.weights()
            batch = batches.draw(weighting.sampling(weights))
        loss, sums = self._passes.run(batch, batch.row_weights(weights))
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", step)
        if not weighting.measures_first:
            weighting.observe(sums)
        self._update(step)
        return loss, sums, weights

    def _update(self, step: int) -> None:
        models, config = self._models, self._config
        norm = models.accelerator.clip_grad_norm_(models.model.parameters(), config.max_grad_norm)
        if norm is not None and not bool(torch.isfinite(norm)):
            raise self._diverged("the gradient is not finite", step)
        factor = rate_factor(step, config)
        for optimizer in models.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def _diverged(self, what: str, step: int) -> ConfigError:
        return ConfigError(
            f"{what} at step {step + 1}: lower --learning-rate (it is "
            f"{self._config.learning_rate:g}) and start anew in another --out; the last good "
            f"checkpoint is kept in {self._folder}"
        )
