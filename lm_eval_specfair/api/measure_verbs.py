"""The verbs that measure, as functions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.api.frames import LoadedRun, StrPath, run_folder
from lm_eval_specfair.api.read_verbs import load_run

logger = logging.getLogger(__name__)


def replay(
    *sources: StrPath | LoadedRun,
    drafter: str | Sequence[str],
    output: StrPath,
    target: str | None = None,
    tokenizer: str | None = None,
    num_speculative_tokens: int | Sequence[int] = 4,
    seed: int = 0,
    device: str | None = None,
    costs: tuple[float, float, float] | StrPath | LoadedRun | None = None,
    measure_costs: bool = False,
) -> list[LoadedRun]:
    """Audit drafters on texts that exist, without decoding them again (`specfair replay`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, or JSON Lines with `prompt` and `response`.
        drafter: One or several: folders, hub ids, `embedded`, `prompt_lookup`.
        output: New folder; with several drafters or draft lengths, one for each in it.
        target: Adds overlap and KL, checks greedy texts, and is needed for sampled ones.
        tokenizer: Of the target, where sources hold text.
        num_speculative_tokens: One draft length, or several.
        seed: For sampled texts.
        device: Where models are put; by default a GPU where there is one.
        costs: c, v and o of a step in plain steps, or a decoded run that measured them.
        measure_costs: Measure them here, for a few seconds; needs the target.

    Returns:
        A run for each drafter and draft length, which `report` and `compare` take.

    Raises:
        ConfigError: If a source or a model cannot be read.
    """
    from lm_eval_specfair.replays.replay_run import replay as run_replay

    lengths = num_speculative_tokens
    done = run_replay(
        [run_folder(source) for source in sources],
        [drafter] if isinstance(drafter, str) else list(drafter),
        Path(output),
        target=target,
        tokenizer=tokenizer,
        lengths=[lengths] if isinstance(lengths, int) else list(lengths),
        seed=seed,
        device=device,
        costs=costs if isinstance(costs, tuple | None) else run_folder(costs),
        measure_costs=measure_costs,
    )
    logger.info("%s", " ".join(done.notes()))
    return [load_run(folder) for folder in done.folders]
