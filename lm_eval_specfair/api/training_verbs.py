"""The verbs of training, as functions: a drafter, and the data for somebody else's trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_specfair.api.frames import LoadedRun, StrPath, run_folder
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import read_mapping

if TYPE_CHECKING:
    from lm_eval_specfair.mixtures.next_shares import Mixture


def mixture(
    *runs: StrPath | LoadedRun,
    output: StrPath | None = None,
    weighting: str = "s-cdf",
    former: StrPath | None = None,
    data: StrPath | Sequence[StrPath] = (),
    data_output: StrPath | None = None,
    data_size: float | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Mixture:
    """Shares of training data by group, from what runs measured (`specfair mixture`).

    Args:
        runs: Runs or replays of the drafter, counted together.
        output: File for the mixture, which another round takes as `former`.
        weighting: As `train` takes it; what it does not name is drawn (`apply=sampling`), by the
            overlap (`signal=tv`), smoothed over rounds (`smoothing=0.5`).
        former: The mixture that the measured drafter was trained on.
        data: JSON Lines with conversations, messages, prompts and responses or texts, and a group,
            or folders of `<group>.txt`.
        data_output: New folder for the data, drawn by the shares.
        data_size: Tokens to draw; by default as many as the data have.
        tokenizer: Counts the data's tokens; by default they are estimated by the bytes per token
            that were measured.
        seed: Of what is drawn.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are not weighed.

    Returns:
        The mixture, with `shares` by group and `groups` with what they come from.

    Raises:
        ConfigError: If runs, rule or data do not fit, or too little was measured.
    """
    from lm_eval_specfair.mixtures.make_mixture import make_mixture

    paths = [data] if isinstance(data, (str, os.PathLike)) else data
    made = make_mixture(
        [run_folder(run) for run in runs],
        weighting=weighting,
        former=None if former is None else Path(former),
        data=[Path(path) for path in paths],
        data_out=None if data_output is None else Path(data_output),
        data_size=data_size,
        seed=seed,
        tokenizer=tokenizer,
        group_by=group_by,
        mapping=None if groups is None else read_mapping(Path(groups)),
        min_requests=min_requests,
        output=None if output is None else Path(output),
    )
    made.write()
    return made.mixture


def train(
    data: StrPath,
    output: StrPath,
    *,
    target: str | None = None,
    drafter: str | None = None,
    resume: bool = False,
    lora_rank: int | None = None,
    quantize_target: str | None = None,
    target_device_map: str | None = None,
    teacher_cache: StrPath | None = None,
    tracker: str | None = None,
    groups_per_drafter: int | StrPath | None = None,
    served_alike: Sequence[StrPath | LoadedRun] = (),
    group_by: str = "language",
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune a drafter so that groups share the speed-up (`specfair train`).

    Args:
        data: A folder of `<group>.txt`, a JSON Lines file, or a source that the verb's help names.
        output: New folder for the drafter, its card and results.
        target: Folder or hub id; by default the embedded target.
        drafter: Folder or hub id to start from; by default the embedded one, with its target.
        resume: Whether to resume a training that was stopped in `output`.
        lora_rank: Learn adapters of this rank only.
        quantize_target: `8bit`, `4bit`, `int8` or `int4`.
        target_device_map: Where the target's layers go.
        teacher_cache: Folder where the target's most likely tokens are recorded, or were.
        tracker: One of accelerate's, such as `tensorboard`.
        groups_per_drafter: Train a drafter for about as many groups each, or for each cluster that
            a JSON file lists; together they read `tokens`.
        served_alike: Runs or replays of the same requests with different drafters, by which groups
            are clustered.
        group_by: What makes a group in them.
        settings: Fields of `training.options.TrainConfig`, such as `weighting="s-cdf"`,
            `tokens=500_000` and `divergence="forward-kl"`.

    Returns:
        The results that the drafter's card shows: before and after, by group; with several
        drafters also `clusters`, the groups of each, and `policy`, the file that a run takes.

    Raises:
        ConfigError: If an argument is wrong or a model cannot be loaded.
    """
    import msgspec

    from lm_eval_specfair.harness.paths import task_configs_dir
    from lm_eval_specfair.training.job import train as run_training
    from lm_eval_specfair.training.options import TrainConfig

    unknown = set(settings) - set(TrainConfig.__struct_fields__)
    if unknown:
        raise ConfigError(
            f"train has no setting {sorted(unknown)[0]!r}; expected one of "
            f"{', '.join(sorted(TrainConfig.__struct_fields__))}"
        )
    shared: dict[str, Any] = {
        "task_folders": [str(task_configs_dir())],
        "target": target,
        "drafter": drafter,
        "resume": resume,
        "lora_rank": lora_rank,
        "quantize_target": quantize_target,
        "target_device_map": target_device_map,
        "teacher_cache": None if teacher_cache is None else Path(teacher_cache),
        "tracker": tracker,
    }
    config = TrainConfig(**settings)
    if groups_per_drafter is not None:
        from lm_eval_specfair.fitting.cluster_training import train_clusters

        trained = train_clusters(
            str(data),
            Path(output),
            config,
            groups_per_drafter=groups_per_drafter
            if isinstance(groups_per_drafter, int)
            else Path(groups_per_drafter),
            served_alike=[run_folder(run) for run in served_alike],
            group_by=group_by,
            **shared,
        )
        several = {"clusters": dict(trained.clusters), "policy": str(trained.policy)}
        return dict(trained.results) | several
    results = run_training(str(data), Path(output), config, **shared)
    found: dict[str, Any] = msgspec.json.decode(results.read_bytes())
    return found
