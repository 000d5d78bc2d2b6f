"""The verbs that mend, as functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lm_eval_specfair.api.frames import LoadedRun, StrPath, run_folder
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import read_mapping

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
    from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy
    from lm_eval_specfair.mixtures.next_shares import Mixture


def fit(
    *sources: StrPath | LoadedRun,
    output: StrPath,
    kind: Literal["ngram", "lookup"] = "ngram",
    order: int = 4,
    group_by: str | None = None,
    documents: str = "all",
    learn: Literal["answers", "texts"] = "answers",
    tokenizer: str | None = None,
) -> list[Path]:
    """Fit a drafter on the target's texts in seconds (`specfair fit`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, folders of `<group>.txt`, or JSON Lines.
        output: New folder.
        kind: `ngram`, or `lookup` for a store in which texts are looked up.
        order: Tokens of the longest n-grams.
        group_by: What makes a group, for a drafter each; by default there is one for all.
        documents: `all`, `even`, `odd`, or `K/N` for those whose number leaves K divided by N.
        learn: Answers, or texts with their prompts.
        tokenizer: Of the target, where sources hold text.

    Returns:
        What `drafter` takes: the policy that gives each group its own, where there are groups,
        then the folders, that of the drafter for all first.

    Raises:
        ConfigError: If a source cannot be read, or holds no text.
    """
    from lm_eval_specfair.fitting.fit_notes import fit_notes
    from lm_eval_specfair.fitting.fit_run import fit as run_fit

    done = run_fit(
        [run_folder(source) for source in sources],
        Path(output),
        kind=kind,
        order=order,
        group_by=group_by,
        documents=documents,
        learn=learn,
        tokenizer=tokenizer,
    )
    logger.info("%s", " ".join(fit_notes(done)))
    policies = [] if done.policy is None else [done.policy]
    return policies + [each.folder for each in done.drafters]


def policy(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | Mapping[str, tuple[float, float, float]] | None = None,
    upstreams: Mapping[int, str] | Mapping[int | tuple[str, int], str] | None = None,
    gateway: StrPath | None = None,
    level: float = 0.05,
) -> LengthPolicy | RoutePolicy:
    """The draft length, or the drafter and length, that serves each group best (`specfair policy`).

    Args:
        runs: Runs or replays with one draft length each, by one drafter or several; the policy is
            to improve on the first one's.
        group_by: What makes a group.
        longest: The longest draft length to consider; by default the longest of the runs.
        costs: What drafting a token, verifying and the rest of a step cost, in plain steps; by
            drafter where there are several. By default as measured in the runs.
        upstreams: URLs of servers by the tokens that each drafts per step, or by drafter and
            tokens; only these are chosen among.
        gateway: File (`.json`, `.yaml`, `.csv`) for the table that a gateway reads.
        level: With several drafters, the chance that any group named ends below plain decoding.

    Raises:
        ConfigError: If a run has no single draft length, there is too little to choose from, or
            runs of several drafters are not of the same requests.
    """
    from lm_eval_specfair.files import write_file
    from lm_eval_specfair.metrics.routing.drafter_texts import Route
    from lm_eval_specfair.reporting.policy.build_policy import build_policy
    from lm_eval_specfair.reporting.policy.gateway_table import gateway_table, table_form

    if gateway is not None:
        table_form(Path(gateway))
    servers: dict[int | Route, str] = {
        each if isinstance(each, int) else Route(*each): url
        for each, url in (upstreams or {}).items()
    }
    found = build_policy(
        [run_folder(run) for run in runs],
        group_by=group_by,
        longest=longest,
        costs=costs,
        served=servers,
        level=level,
    )
    if gateway is not None:
        write_file(Path(gateway), gateway_table(found, Path(gateway), servers))
    return found


def prune(
    drafter: StrPath,
    *sources: StrPath | LoadedRun,
    output: StrPath,
    draft_vocabulary: int,
    coverage_floor: float = 0.0,
    group_by: str = "language",
    documents: str = "all",
    tokenizer: str | None = None,
) -> dict[str, float]:
    """Cut a drafter's head to the tokens that every group needs (`specfair prune`).

    Args:
        drafter: Its folder, or an embedded one's name.
        sources: The target's texts: runs, lm-eval's `samples_*.jsonl`, folders of `<group>.txt`, or
            JSON Lines.
        output: New folder, which `drafter` takes.
        draft_vocabulary: Number of tokens that are drafted.
        coverage_floor: Share of each group's tokens that must be among them.
        group_by: What makes a group.
        documents: `all`, `even`, `odd`, or `K/N` for those whose number leaves K divided by N.
        tokenizer: Of the target, where sources hold text.

    Returns:
        The share of each group's tokens that is covered.

    Raises:
        ConfigError: If drafter or sources cannot be read, or so few tokens cannot cover as much.
    """
    from lm_eval_specfair.fitting.prune_run import prune as run_prune

    done = run_prune(
        str(drafter),
        [run_folder(source) for source in sources],
        Path(output),
        draft_vocabulary=draft_vocabulary,
        coverage_floor=coverage_floor,
        group_by=group_by,
        documents=documents,
        tokenizer=tokenizer,
    )
    logger.info("%s", " ".join(done.notes()))
    return dict(zip(done.groups, map(float, done.chosen.coverage), strict=True))


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
