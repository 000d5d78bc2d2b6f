"""What decodes a run's requests: one small protocol, and this package's engine behind it."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Drafter, NoDrafter
from lm_eval_specfair.decoding.engine import Completion, Engine, Request
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.recovery import Faults, Recovery


class Decoder(Protocol):
    """Decodes requests with the run's drafter, or plainly for its baseline."""

    drafts: bool
    """Whether there is a drafter."""

    @property
    def faults(self) -> Faults:
        """What is known of requests that raised."""

    @property
    def most_rows(self) -> int:
        """Requests decoded together at most."""

    def completions(
        self, config: DecodeConfig, requests: Sequence[Request], *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes or fails.

        Args:
            config: How, the same for all.
            requests: Taken in order.
            plain: Without the drafter.

        Raises:
            ConfigError: If they cannot be decoded like this.
        """


class InProcess:
    """This package's engine on models in this process."""

    def __init__(self, target: CausalModel, drafter: Drafter, *, rows: int) -> None:
        """Decode with a target and a drafter, so many rows at most."""
        self._target, self._drafter = target, drafter
        self._plain = NoDrafter(target.device)
        self.drafts = not isinstance(drafter, NoDrafter)
        self._recovery = Recovery(target, rows)

    @property
    def faults(self) -> Faults:
        """What is known of requests that raised."""
        return self._recovery

    @property
    def most_rows(self) -> int:
        """Rows that fit into memory as far as is known."""
        return self._recovery.most_rows

    def completions(
        self, config: DecodeConfig, requests: Sequence[Request], *, plain: bool = False
    ) -> Iterator[Completion]:
        """Decode requests, yielding each as it finishes or fails.

        Raises:
            ConfigError: As the engine does.
        """
        engine = Engine(self._target, config)
        drafter = self._plain if plain else self._drafter
        return self._recovery.completions(engine, requests, drafter)
