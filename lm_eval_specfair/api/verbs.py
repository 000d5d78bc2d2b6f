"""The verbs as functions: each raises `ConfigError` where the verb ends with one line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_specfair.api.frames import LoadedRun, Report, RunComparison, StrPath
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import read_mapping
from lm_eval_specfair.records import read_run

if TYPE_CHECKING:
    from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
    from lm_eval_specfair.reporting.comparison.build_plan import Plan


logger = logging.getLogger(__name__)


def load_run(path: StrPath) -> LoadedRun:
    """A run's folder, as `lm_eval --model specfair` leaves it.

    Args:
        path: The folder with `run.json` and records.

    Raises:
        ConfigError: If there is no run in it.
    """
    folder = Path(path)
    return LoadedRun(path=folder, info=read_run(folder))


def report(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    samples: StrPath | None = None,
    quality_metric: str | None = None,
) -> Report:
    """The disparity report of one run, or of several read together (`specfair report`).

    Args:
        runs: Folders, or what `load_run` gave.
        group_by: What makes a group: `language`, `script`, `family`, `task`, or any field of the
            documents or of the tasks' metadata.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are not reported.
        samples: lm-eval's samples, for the answer quality of groups; by default those in the runs'
            folders.
        quality_metric: Which metric of the samples is the answer quality.

    Raises:
        ConfigError: If a run cannot be read, or nothing in it can be reported.
    """
    from lm_eval_specfair.reporting.report.build_report import build_summary

    return Report(
        build_summary(
            [_folder(run) for run in runs],
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            min_requests=min_requests,
            samples=None if samples is None else Path(samples),
            quality_metric=quality_metric,
        )
    )


def compare(
    base: StrPath | LoadedRun,
    *candidates: StrPath | LoadedRun,
    group_by: str = "language",
    groups: StrPath | None = None,
    metric: str | None = None,
    gate: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
    family_wise: bool = False,
) -> RunComparison:
    """What other drafters change on the same requests (`specfair compare`).

    Args:
        base: The run to compare with.
        candidates: The other runs.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        metric: The metric that tables show; data frames hold all.
        gate: A YAML file of limits, or `default`.
        min_requests: Groups with fewer requests are not compared.
        family_wise: Whether all candidates share one rate of false alarms.

    Raises:
        ConfigError: If the runs differ in what must be equal, such as tasks or target.
    """
    from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison, read_gate

    return RunComparison(
        build_comparison(
            _folder(base),
            [_folder(run) for run in candidates],
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            metric=metric,
            gate=None if gate is None else read_gate(str(gate)),
            min_requests=min_requests,
            family_wise=family_wise,
        )
    )


def plan(
    base: StrPath | LoadedRun,
    other: StrPath | LoadedRun | None = None,
    *,
    margin: float = 0.05,
    power: float = 0.8,
    gate: StrPath | None = None,
    metric: str | None = None,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Plan:
    """How many documents a group a gate needs to find a loss (`specfair plan`).

    Args:
        base: A small run, the pilot.
        other: Another drafter's run of the same requests; without it the plan is unpaired.
        margin: The loss to be found, as a share of the base's value.
        power: In which share of cases.
        gate: A YAML file of limits, or `default`; without it, one on each group.
        metric: What is lost.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer requests are left out.

    Raises:
        ConfigError: If a number is out of range, or the runs differ in what must be equal.
    """
    from lm_eval_specfair.reporting.comparison.build_comparison import read_gate
    from lm_eval_specfair.reporting.comparison.build_plan import build_plan

    return build_plan(
        [_folder(run) for run in (base, other) if run is not None],
        loss=margin,
        power=power,
        gate=None if gate is None else read_gate(str(gate)),
        metric=metric,
        group_by=group_by,
        mapping=None if groups is None else read_mapping(Path(groups)),
        min_requests=min_requests,
    )


def policy(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | None = None,
) -> LengthPolicy:
    """The draft length that serves each group best (`specfair policy`).

    Args:
        runs: Runs with one draft length each; the policy is to improve on the first one's.
        group_by: What makes a group.
        longest: The longest draft length to consider; by default the longest of the runs.
        costs: What drafting a token, verifying and the rest of a step cost, in plain steps; by
            default as measured in the runs.

    Raises:
        ConfigError: If a run has no single draft length, or too little to choose from.
    """
    from lm_eval_specfair.reporting.policy.build_policy import build_policy

    folders = [_folder(run) for run in runs]
    return build_policy(folders, group_by=group_by, longest=longest, costs=costs)


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
        [_folder(source) for source in sources],
        [drafter] if isinstance(drafter, str) else list(drafter),
        Path(output),
        target=target,
        tokenizer=tokenizer,
        lengths=[lengths] if isinstance(lengths, int) else list(lengths),
        seed=seed,
        device=device,
        costs=costs if isinstance(costs, tuple | None) else _folder(costs),
        measure_costs=measure_costs,
    )
    logger.info("%s", " ".join(done.notes()))
    return [load_run(folder) for folder in done.folders]


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
        settings: Fields of `training.options.TrainConfig`, such as `weighting="s-cdf"`,
            `tokens=500_000` and `divergence="forward-kl"`.

    Returns:
        The results that the drafter's card shows: before and after, by group.

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
    results = run_training(
        str(data),
        Path(output),
        TrainConfig(**settings),
        task_folders=[str(task_configs_dir())],
        target=target,
        drafter=drafter,
        resume=resume,
        lora_rank=lora_rank,
        quantize_target=quantize_target,
        target_device_map=target_device_map,
        teacher_cache=None if teacher_cache is None else Path(teacher_cache),
        tracker=tracker,
    )
    found: dict[str, Any] = msgspec.json.decode(results.read_bytes())
    return found


def _folder(run: StrPath | LoadedRun) -> Path:
    return run.path if isinstance(run, LoadedRun) else Path(run)
