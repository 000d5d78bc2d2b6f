"""The folder of a run (`--out`): claimed at the start, filled with the drafter at the end."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import staged
from lm_eval_specfair.training.artifacts.checkpoint import cannot_write

SETTINGS_FILE, RESULTS_FILE = "train.json", "train_results.json"


def claim_folder(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Make `--out` ours, or, to resume, make sure that it is this very run's.

    `settings` are all that decides the result.

    Raises:
        ConfigError: If it holds something else, or a run with other settings.
    """
    file = folder / SETTINGS_FILE
    settings = json.loads(json.dumps(settings))
    if not resume or not folder.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"--out must be a new or empty folder, got {folder}; pass --resume to resume the "
                "run in it"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out must be a folder that can be made: {error}") from error
        return
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError(f"{SETTINGS_FILE} is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--resume found no run in {folder}: {error}") from error
    if "quantise_target" in saved:  # its name in older runs
        saved["quantize_target"] = saved.pop("quantise_target")
    differing = sorted(key for key in {*saved, *settings} if saved.get(key) != settings.get(key))
    if differing:
        key = differing[0]
        raise ConfigError(
            f"--resume needs the settings that {folder} was begun with; {', '.join(differing)} "
            f"differ ({key}: {saved.get(key)!r} then, {settings.get(key)!r} now)"
        )


@contextlib.contextmanager
def given_back(folder: Path) -> Iterator[None]:
    """Leave the folder free again where something is refused before anything is learnt.

    Raises:
        ConfigError: As it was raised.
    """
    try:
        yield
    except ConfigError:
        if not (folder / "checkpoint").exists():
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it has responses, which are worth keeping
                folder.rmdir()
        raise


def save_finished(
    folder: Path,
    save: Callable[[Path], object],
    tokenizer: PreTrainedTokenizerBase,
    *,
    results: dict[str, Any],
    card: str,
) -> None:
    """Save a finished drafter beside the state, move it in place, and only then drop the state.

    `save` writes the drafter into a folder.

    Raises:
        ConfigError: If the disk is full.
    """
    try:
        # The results come last: where they are, the run is finished.
        with staged(folder, last=RESULTS_FILE) as fresh:
            save(fresh)
            tokenizer.save_pretrained(fresh)
            (fresh / "README.md").write_text(card, encoding="utf-8")
            text = json.dumps(results, indent=2) + "\n"
            (fresh / RESULTS_FILE).write_text(text, encoding="utf-8")
            for path in fresh.iterdir():
                path.chmod(0o644)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    for name in ("checkpoint", "best"):
        shutil.rmtree(folder / name, ignore_errors=True)
    # Responses are data of the run, worth keeping; what was recorded of the target is large.
    (folder / "teacher_cache.safetensors").unlink(missing_ok=True)
