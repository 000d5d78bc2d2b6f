"""`specfair train --groups-per-drafter`: a drafter for each cluster of groups, and their policy."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.fitting.similar_groups import Clusters, read_clusters, read_served
from lm_eval_specfair.groups.assign import canonical_key
from lm_eval_specfair.records.policy_file import PolicyFile
from lm_eval_specfair.training.artifacts.out_folder import SETTINGS_FILE
from lm_eval_specfair.training.data.text_sources import read_source
from lm_eval_specfair.training.job import train
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.weighting import parse

logger = logging.getLogger(__name__)

CLUSTERS_FILE, POLICY = "clusters.json", "policy.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterTraining:
    """Drafters that were trained for clusters.

    Attributes:
        folders: The drafter of each cluster.
        clusters: Groups of each.
        policy: The file that gives each group its drafter.
        results: Of all groups as `train_results.json` has them, each from its own drafter.
    """

    folders: Mapping[str, Path]
    clusters: Clusters
    policy: Path
    results: Mapping[str, Any]


def train_clusters(
    data: str,
    out: Path,
    config: TrainConfig | None = None,
    *,
    groups_per_drafter: int | Path,
    served_alike: Sequence[Path] = (),
    group_by: str = "language",
    task_folders: Sequence[str] = (),
    target: str | None = None,
    drafter: str | None = None,
    teacher_cache: Path | None = None,
    resume: bool = False,
    **others: Any,
) -> ClusterTraining:
    """Fine-tune one drafter for each cluster of groups, all from the same start.

    The budget is shared out by the number of groups, so that together they read as many tokens as
    one drafter for all would.

    Args:
        data: As `training.job.train` takes it.
        out: New folder: a folder for each cluster's drafter, `clusters.json` and `policy.json`.
        config: Settings of each training; `tokens` is the budget of all together.
        groups_per_drafter: About how many groups share a drafter, or a file with the clusters.
        served_alike: Runs or replays of the same requests with different drafters, by which groups
            are clustered; required with a number that is less than all groups.
        group_by: What makes a group in those runs, and in the policy.
        task_folders: Folders with tasks that `data` may name.
        target: As `training.job.train` takes it.
        drafter: The same; groups of no cluster keep it.
        teacher_cache: A folder in which each cluster has its own.
        resume: Resume the trainings in the folder; those that are finished are left as they are.
        others: Further arguments of `training.job.train`.

    Raises:
        ConfigError: If an argument, a run, the data or a training go wrong.
    """
    config = config or TrainConfig()
    parse(config.weighting)
    if config.kind != "model":
        raise ConfigError(
            "--groups-per-drafter trains drafting models: a head is made anew for each training, "
            "so train one for each cluster and name them in a policy"
        )
    items = read_source(data, task_folders=list(task_folders))
    present = {name for item in items for name, _ in item.membership}
    clusters = _clusters(groups_per_drafter, served_alike, present, group_by)
    named = {group for groups in clusters.values() for group in groups}
    if left_out := sorted(present - named):
        logger.warning(
            "no drafter is trained for %s: in no cluster, so they keep the one that is begun from",
            ", ".join(left_out),
        )
    tokens = {
        name: max(1, round(config.tokens * len(groups) / len(named)))
        for name, groups in clusters.items()
    }
    _claim(out, {"clusters": clusters, "tokens": tokens}, resume=resume)
    folders, found = {}, list[dict[str, Any]]()
    for number, (name, groups) in enumerate(clusters.items(), 1):
        logger.warning("drafter %d of %d: %s", number, len(clusters), ", ".join(groups))
        folders[name] = out / name
        results = train(
            data,
            folders[name],
            msgspec.structs.replace(config, tokens=tokens[name]),
            task_folders=task_folders,
            target=target,
            drafter=drafter,
            teacher_cache=None if teacher_cache is None else teacher_cache / name,
            resume=resume,
            groups=groups,
            **others,
        )
        found.append(msgspec.json.decode(results.read_bytes()))
    settings = msgspec.json.decode((folders[name] / SETTINGS_FILE).read_bytes())
    # A run of a target that is quantized otherwise has another digest.
    weights = None if settings["quantize_target"] else settings["target_weights"]
    length = config.num_speculative_tokens
    policy = PolicyFile(
        group_by=canonical_key(group_by),
        default=length,
        groups=dict.fromkeys(sorted(named), length),
        default_drafter=_start(drafter),
        drafters={group: name for name, groups in clusters.items() for group in groups},
        made_from={
            "trained_on": data,
            "served_alike": [str(folder) for folder in served_alike],
            **({} if weights is None else {"target_weights": weights}),
        },
    )
    merged = {
        key: {group: value for one in found for group, value in one[key].items()}
        for key in ("train_tokens", "groups")
    }
    return ClusterTraining(
        folders=folders,
        clusters=clusters,
        policy=write_file(out / POLICY, policy.to_json()),
        results=merged,
    )


def _clusters(
    groups_per_drafter: int | Path, runs: Sequence[Path], present: set[str], group_by: str
) -> Clusters:
    if isinstance(groups_per_drafter, Path):
        if runs:
            raise ConfigError(
                "--served-alike finds clusters, and --groups-per-drafter names a file that has "
                "them; leave one out"
            )
        clusters = read_clusters(groups_per_drafter)
        if unknown := sorted({g for groups in clusters.values() for g in groups} - present):
            raise ConfigError(
                f"{groups_per_drafter} names {', '.join(unknown)}, of which the data have no text; "
                f"they have {', '.join(sorted(present))}"
            )
        return clusters
    if not runs:
        raise ConfigError(
            "--groups-per-drafter finds groups that are served alike in runs or replays: name them "
            "with --served-alike, or name a file of clusters instead of a number"
        )
    return read_served(runs, present, group_by=group_by).clusters(groups_per_drafter)


def _start(drafter: str | None) -> str:
    """What is begun from, as a policy in another folder can name it."""
    name = drafter or "embedded"
    is_path = name not in loading.EMBEDDED_DRAFTERS and Path(name).is_dir()
    return str(Path(name).resolve()) if is_path else name


def _claim(out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Make the folder ours, or make sure that it has the same clusters.

    Raises:
        ConfigError: If it holds something else.
    """
    file = out / CLUSTERS_FILE
    if out.exists() and (not out.is_dir() or any(path != file for path in out.iterdir())):
        if not resume:
            raise ConfigError(
                f"--out must be a new or empty folder, got {out}; pass --resume to resume the "
                "trainings in it"
            )
        try:
            saved = msgspec.json.decode(file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--resume found no {CLUSTERS_FILE} in {out}: {error}") from error
        if saved != msgspec.to_builtins(settings):
            raise ConfigError(
                f"--resume needs the clusters and the budget that {out} was begun with; "
                f"{CLUSTERS_FILE} has others"
            )
        return
    write_file(file, msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n")
