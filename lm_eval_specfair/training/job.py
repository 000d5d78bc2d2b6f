"""What is trained on what, and the folder that it goes to."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.items import Item
from lm_eval_specfair.training.options import TrainConfig

SETTINGS_FILE, RESULTS_FILE = "train.json", "train_results.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is trained on what.

    Attributes:
        target: Frozen.
        drafter: Trained in place; may carry adapters.
        tokenizer: Of both.
        items: Texts and prompts with their groups.
        config: How.
        folder: Where the finished drafter goes.
        described: What else tells this run from another (names, digests), for `train.json`.
        tracker: A tracker that accelerate knows, or None.
    """

    target: PreTrainedModel
    drafter: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    items: Sequence[Item]
    config: TrainConfig
    folder: Path
    described: dict[str, Any] = dataclasses.field(default_factory=dict)
    tracker: str | None = None


def claim_folder(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Make the folder ours, or make sure that it is this very run's.

    Args:
        folder: `--out`.
        settings: All that decides the result.
        resume: Whether to go on with what is there.

    Raises:
        ConfigError: If it holds something else, or a run with other settings.
    """
    file = folder / SETTINGS_FILE
    settings = json.loads(json.dumps(settings))
    if not resume or not folder.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"--out must be a new or empty folder, got {folder}; pass --resume to go on with "
                "the run in it"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out must be a folder that can be made: {error}") from error
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{SETTINGS_FILE} is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--resume found no run in {folder}: {error}") from error
    differing = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
    if differing:
        key = differing[0]
        raise ConfigError(
            f"--resume needs the settings that {folder} was begun with; {', '.join(differing)} "
            f"differ ({key}: {found.get(key)!r} then, {settings.get(key)!r} now)"
        )
