"""The target of a replay: a model that reads, its pass on disk, or both."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.weight_digests import digest_on_disk, weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.kept_pass import KeptPass
from lm_eval_specfair.replays.passes.one_pass import OnePass, TextReader
from lm_eval_specfair.replays.replay_models import load, resolved

logger = logging.getLogger(__name__)


class TargetSide:
    """A named target, a folder that keeps its pass, or neither.

    Attributes:
        name: As `run.json` names it; None where there is no target.
        weights: Digest.
        reader: Reads texts; None where there is no target.
        model: Loaded only where it is needed.
    """

    def __init__(self, target: str | None, cache: Path | None, device: str, dtype: str) -> None:
        """Load the target, unless its pass is on disk.

        Raises:
            ConfigError: If the target cannot be loaded, or the folder keeps another one's pass.
        """
        self._target = None if target is None else _path_of(target)
        self._given, self._device, self._dtype = target, device, dtype
        self.name: str | None = None
        self.weights: str | None = None
        self.reader: TextReader | None = None
        self.model: PreTrainedModel | None = None
        self._kept = None if cache is None else KeptPass.found(cache, torch.device(device))
        if self._kept is not None:
            self._take_over(self._kept)
        elif self._target is not None:
            live = self._load()
            self.name = loading.shown_name(self._target)
            self.weights = weights_digest(self._target, self.model)
            self.reader = live
            if cache is not None:
                self.reader = self._kept = KeptPass.new(cache, live, self.name, self.weights)
        elif cache is not None:
            raise ConfigError(
                f"--target-cache {cache} keeps nothing yet: name the target with --target"
            )

    def prepare(self, texts: Sequence[KnownText], *, needs_model: bool = False) -> None:
        """Load the target if it has texts to read, or is needed for other things.

        Raises:
            ConfigError: If it is needed and not named, or its pass has no room on disk.
        """
        missing = [] if self._kept is None else self._kept.missing(texts)
        if self._kept is not None and self.model is None and (missing or needs_model):
            if self._target is None:
                raise ConfigError(
                    f"{len(missing)} of {len(texts)} texts are not in --target-cache "
                    f"{self._kept.folder}: name the target with --target"
                )
            self._load_beside(self._kept)
        if self._kept is not None and missing:
            self._kept.refuse_too_large(texts)
            outputs, head = self._kept.num_bytes(missing)
            logger.warning(
                "The target's pass over %d texts (%d tokens of responses) will be kept in %s: "
                "%.1f MB%s.",
                len(missing),
                sum(len(text.response) for text in missing),
                self._kept.folder,
                outputs / 1e6,
                f", and once {head / 1e6:.1f} MB for the head" if head else "",
            )

    def model_for(self, whoever: str) -> PreTrainedModel:
        """The target itself, whose hidden states somebody reads; loaded if it is not yet.

        Raises:
            ConfigError: If it is not named.
        """
        if self.model is None and self._target is not None and self._kept is not None:
            self._load_beside(self._kept)
        if self.model is None:
            kept = "" if self._kept is None else " (--target-cache keeps its last outputs alone)"
            raise ConfigError(
                f"{whoever} reads the target's hidden states{kept}: name the target with --target"
            )
        return self.model

    def _load_beside(self, kept: KeptPass) -> None:
        live = self._load()
        assert self.model is not None
        found = str(self.model.dtype).removeprefix("torch.")
        if found != kept.record.dtype:
            raise self._other(f"weights in {kept.record.dtype}, not {found}")
        kept.live = live

    def _load(self) -> OnePass:
        assert self._given is not None
        self.model = load(self._given, "target", self._device, self._dtype)
        return OnePass(self.model)

    def _take_over(self, kept: KeptPass) -> None:
        if self._target is not None:
            found = digest_on_disk(self._target)
            if found != kept.record.weights or found is None:
                raise self._other(f"the pass of {kept.record.target}, not of {self._given}")
        if self._dtype not in ("auto", kept.record.dtype):
            raise self._other(f"weights in {kept.record.dtype}, not {self._dtype}")
        self.reader = kept
        self.name, self.weights = kept.record.target, kept.record.weights

    def _other(self, what: str) -> ConfigError:
        assert self._kept is not None
        return ConfigError(f"--target-cache {self._kept.folder} keeps {what}: name another folder")


def _path_of(target: str) -> str:
    return str(loading.EMBEDDED_TARGET) if target == "embedded" else resolved(target)
