"""The splits of data sets that a suite reads, as its YAMLs say. Loads no rows and no models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_specfair.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Need:
    """One split of a data set on the hub that a task reads.

    Attributes:
        config: The data set's configuration; empty where it has only one.
        is_optional: Whether only few-shot prompts need the split.
    """

    dataset: str
    config: str
    split: str
    is_optional: bool


def needs(suite: str) -> list[Need]:
    """What a group or a task of this project reads, each split once.

    Raises:
        ConfigError: If there is no such suite, or it reads nothing through the suites' loader.
    """
    from lm_eval.tasks import TaskManager

    from lm_eval_specfair.harness.paths import task_configs_dir

    folder = str(task_configs_dir())
    index = TaskManager(include_path=folder, include_defaults=False).task_index
    groups = {name for name in index if "group" in _config(index, name)}
    if suite in groups and any(member not in index for member in _members(suite, index)):
        index = TaskManager(include_path=folder).task_index  # lm-eval's own: seconds more
    every_need = list(_needs_of(suite, index)) if suite in index else []
    if not every_need:
        fetched = [name for name in sorted(groups) if name != "specfair_demo"]
        raise ConfigError(
            f"expected a suite whose data can be fetched, got {suite!r}: name one of "
            f"{', '.join(fetched)}, or one of their tasks"
        )
    by_split: dict[tuple[str, str, str], Need] = {}
    for need in sorted(every_need, reverse=True):  # of one split, what is required comes last
        by_split[need.dataset, need.config, need.split] = need
    return sorted(by_split.values())


def _config(index: Mapping[str, Any], name: str) -> dict[str, Any]:
    config: dict[str, Any] = (index[name].cfg or {}) if name in index else {}
    return config


def _members(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks below a group; a task is its own only member."""
    config = _config(index, name)
    if "group" not in config:
        yield name
        return
    for member in config["task"]:
        yield from _members(member if isinstance(member, str) else member["task"], index)


def _needs_of(name: str, index: Mapping[str, Any]) -> Iterator[Need]:
    for task in _members(name, index):
        config = _config(index, task)
        if config.get("dataset_path") is not None:
            yield from _needs_of_task(config)


def _needs_of_task(config: Mapping[str, Any]) -> Iterator[Need]:
    dataset: str = config["dataset_path"]
    configs = [config.get("dataset_name")]
    if "pair_with" in (config.get("dataset_kwargs") or {}):
        configs.append(config["dataset_kwargs"]["pair_with"])
    evaluated: str = config.get("test_split") or config["validation_split"]
    examples = [config.get("fewshot_split"), config.get("training_split")]
    for part in configs:
        yield Need(dataset=dataset, config=part or "", split=evaluated, is_optional=False)
        for split in examples:
            if split is not None and split != evaluated:
                yield Need(dataset=dataset, config=part or "", split=split, is_optional=True)
