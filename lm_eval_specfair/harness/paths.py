"""The folder of the task YAMLs. Knows neither torch nor lm_eval."""

from pathlib import Path

from lm_eval_specfair.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def task_configs_dir() -> Path:
    """Folder of the task YAMLs: inside the package once installed, beside it in a checkout.

    Raises:
        ConfigError: If neither folder exists.

    Example:
        >>> task_configs_dir().name
        'task_configs'
    """
    for folder in (_PACKAGE / "task_configs", _PACKAGE.parent / "task_configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"expected a task_configs folder in {_PACKAGE} or beside it, found none: "
        "reinstall lm_eval_specfair."
    )
