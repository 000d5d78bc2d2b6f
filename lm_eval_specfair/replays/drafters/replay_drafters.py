"""The drafters of a replay as they are loaded: models, and heads on a loaded target."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_folder import fit_to, found_head, read_head
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays import replay_models
from lm_eval_specfair.replays.drafters.replayed_head import ReplayedHead
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.target_side import TargetSide


class ReplayDrafters:
    """Loaded drafters by name; several that look up first may share a model.

    Attributes:
        models: Those that are, or have, a small model.
        heads: Those that are heads.
    """

    def __init__(self, names: Sequence[str], side: TargetSide, device: str, dtype: str) -> None:
        """Load what has weights; a head has the target loaded, if it is not yet.

        Raises:
            ConfigError: If one cannot be loaded, or a head has no target or another one.
        """
        folders = _heads_among(names)
        self._sources = {
            name: source
            for name in names
            if name not in folders and (source := replay_models.model_of(name))
        }
        self._loaded = {
            source: replay_models.load(source, "drafter", device, dtype)
            for source in dict.fromkeys(self._sources.values())
        }
        self._side = side
        self.models: dict[str, PreTrainedModel] = {
            name: self._loaded[source] for name, source in self._sources.items()
        }
        self.heads = {name: _load_head(name, folder, side) for name, folder in folders.items()}

    def module(self, name: str) -> nn.Module | None:
        """What a drafter's weights are in; None of one without."""
        return self.heads.get(name) or self.models.get(name)

    def readers(self) -> dict[str, OnePass]:
        """What reads texts with the models."""
        passes = {source: OnePass(model) for source, model in self._loaded.items()}
        return {name: passes[source] for name, source in self._sources.items()}

    def replayed_heads(self) -> dict[str, ReplayedHead]:
        """The heads as they are replayed."""
        return {
            name: ReplayedHead(head, self._side.model_for(name), name=str(self._side.name))
            for name, head in self.heads.items()
        }


def refuse_heads(names: Sequence[str], option: str) -> None:
    """Raise ConfigError where an option of drafting models meets a head."""
    if name := next(iter(_heads_among(names)), None):
        raise ConfigError(f"{option} is for drafting models; {name!r} is a head: leave one out")


def _heads_among(names: Sequence[str]) -> dict[str, Path]:
    paths = {name: replay_models.named_drafter(name).model for name in names}
    found = {name: found_head(path) for name, path in paths.items()}
    for name, folder in found.items():
        if folder is not None and replay_models.named_drafter(name).lookup is not None:
            raise ConfigError(
                f"--drafter {name}: a lookup before a head is not replayed; decode with it, or "
                "replay its parts"
            )
    return {name: folder for name, folder in found.items() if folder is not None}


def _load_head(name: str, folder: Path, side: TargetSide) -> Eagle3Head:
    if (kind := replay_models.split_drafter(name)[1]) is not None:
        raise ConfigError(f"--drafter {name}: heads have the target's type; leave out @{kind}")
    target = side.model_for(f"drafter {name} is a head and")
    layers = int(target.config.get_text_config(decoder=True).num_hidden_layers)
    head = read_head(folder, num_target_layers=layers, dtype=target.dtype)
    fit_to(head, target, name)
    return head.requires_grad_(False).to(target.device)
