"""The mixture file: each group's share of the training data, and what the next round needs."""

import math
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.options import Share
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

EXAMPLE = '{"schema_version": 1, "group_by": "language", "shares": {"de": 0.25, "en": 0.75}}'
_TOLERANCE = 1e-3


class RoundState(Struct, frozen=True, kw_only=True):
    """What a rule remembers from round to round.

    Attributes:
        misfit: Of each group, the running mean over rounds, in the signal's unit.
        overlap: The same of the overlap, or of what stands for it; None where nothing does.
        rule: What the rule itself remembers (`Weighting.state`).
    """

    misfit: dict[str, float]
    overlap: dict[str, float | None]
    rule: dict[str, Any] = {}


class MixtureFile(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema_version", tag=1
):
    """Shares of data by group. Written by hand, `group_by` and `shares` are enough.

    Attributes:
        group_by: What makes a group (`groups.assign.assignments`).
        shares: Of the tokens that are learnt from, adding up to 1.
        weighting: The rule that made them, as it was spelled.
        figure: The metric that the rule's signal was taken from.
        number: Of the round, from 1.
        state: What the rule remembers; None where there was no rule.
        measured: That metric of each measured group, with its interval.
        made_from: The runs, and the former mixture.
    """

    group_by: str
    shares: dict[str, Share]
    weighting: str | None = None
    figure: str | None = None
    number: int = 1
    state: RoundState | None = None
    measured: dict[str, Any] = {}
    made_from: dict[str, Any] = {}

    def to_json(self) -> str:
        """The file's text."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"


def read_mixture(path: Path) -> MixtureFile:
    """The mixture in a file.

    Raises:
        ConfigError: If it cannot be read, is no mixture, or its shares do not add up to 1.
    """
    try:
        content = path.read_bytes()
        mixture = msgspec.json.decode(content, type=MixtureFile)
        json_data(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: of msgspec, or a NUL byte
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise ConfigError(
            f"expected a mixture, got {str(path)!r:.200} ({reason:.200}); it looks like {EXAMPLE}"
        ) from None
    total = math.fsum(mixture.shares.values())
    if abs(total - 1) > _TOLERANCE:
        raise ConfigError(f"{path}: expected shares that add up to 1, got {total:.4g}")
    return mixture
