"""The configuration of an EAGLE-3 head, in the form that vLLM's speculators write and vLLM serves.

Layers are counted as there: number i is what enters the target's layer i, counted from 0, so 0 is
what the embedding gives and the number of layers is what leaves the last, before the final norm.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from lm_eval_specfair.decoding.loading import MISREAD
from lm_eval_specfair.errors import ConfigError

FORMAT_VERSION = "0.9.0"
"""The version of speculators whose form is written."""
KIND = "speculators_model_type"
LAYER_FAMILIES = ("llama", "qwen3")
"""Kinds of decoder layers that speculators and vLLM know as heads; qwen3 norms queries and keys."""
_NORMS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """What an EAGLE-3 head is made of.

    Attributes:
        layer: The decoder layers' configuration (Llama's or Qwen 3's); its `vocab_size` is the
            target's, its `num_hidden_layers` the head's own.
        feature_layers: Layers of the target whose hidden states it reads, in ascending order.
        draft_vocab_size: Tokens that it drafts among.
        target_hidden_size: Width of the target's hidden states.
        target_name: Folder or hub id of the target that it was made for, if known.
        target_architectures: That target's classes, as in its config.json.
        num_speculative_tokens: Tokens a step that it was made to draft.
        norm_before_residual: Whether the first layer's residual is the normed hidden state.
        norm_before_fc: Whether the features are normed together before `fc`.
        fc_norm: Whether each layer's features are normed before `fc`.
        norm_output: Whether a step hands its normed hidden state to the next.
    """

    layer: PretrainedConfig
    feature_layers: tuple[int, ...]
    draft_vocab_size: int
    target_hidden_size: int
    target_name: str | None = None
    target_architectures: tuple[str, ...] = ()
    num_speculative_tokens: int = 4
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False

    def __post_init__(self) -> None:
        family = self.layer.model_type
        if family not in LAYER_FAMILIES:
            raise ConfigError(
                f"a head's layers must be of {' or '.join(LAYER_FAMILIES)}, got {family!r}"
            )
        if "sliding_attention" in (getattr(self.layer, "layer_types", None) or ()):
            raise ConfigError("heads with sliding windows are not supported")
        layers = self.feature_layers
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
            raise ConfigError(
                "eagle_aux_hidden_state_layer_ids must be different layers of the target in "
                f"ascending order, got {list(layers)}"
            )
        if self.norm_before_fc and self.fc_norm:
            raise ConfigError("norm_before_fc and fc_norm exclude each other; the head sets both")
        if not 0 < self.draft_vocab_size <= self.vocab_size:
            raise ConfigError(
                f"draft_vocab_size must be at most the target's {self.vocab_size}, got "
                f"{self.draft_vocab_size}"
            )

    @property
    def vocab_size(self) -> int:
        """The target's vocabulary."""
        return int(self.layer.vocab_size)

    @property
    def hidden_size(self) -> int:
        return int(self.layer.hidden_size)

    @property
    def is_pruned(self) -> bool:
        """Whether it drafts only some of the target's tokens."""
        return self.draft_vocab_size < self.vocab_size

    @classmethod
    def for_target(
        cls,
        target: PretrainedConfig,
        *,
        draft_vocab_size: int | None = None,
        feature_layers: tuple[int, ...] | None = None,
        **settings: Any,
    ) -> "HeadConfig":
        """A head of one Llama layer for a target, as wide as that and with as many heads.

        Args:
            target: The target's configuration.
            draft_vocab_size: Tokens that it drafts among; all of the target's if None.
            feature_layers: Those that it reads; `default_layers` if None.
            settings: Further fields. `layer` may be a mapping of settings of the layer.
        """
        text = target.get_text_config(decoder=True)
        num_heads = int(text.num_attention_heads)
        own = {
            "vocab_size": int(text.vocab_size),
            "hidden_size": int(text.hidden_size),
            "intermediate_size": int(
                getattr(text, "intermediate_size", None) or 3 * text.hidden_size
            ),
            "num_hidden_layers": 1,
            "num_attention_heads": num_heads,
            "num_key_value_heads": int(getattr(text, "num_key_value_heads", None) or num_heads),
            "head_dim": int(getattr(text, "head_dim", None) or text.hidden_size // num_heads),
            "max_position_embeddings": int(getattr(text, "max_position_embeddings", 2048)),
            "rms_norm_eps": float(getattr(text, "rms_norm_eps", 1e-6)),
            "hidden_act": "silu",
            "tie_word_embeddings": False,
        } | dict(settings.pop("layer", {}))
        return cls(
            layer=AutoConfig.for_model("llama", **own),
            feature_layers=feature_layers or default_layers(int(text.num_hidden_layers)),
            draft_vocab_size=draft_vocab_size or int(text.vocab_size),
            target_hidden_size=int(text.hidden_size),
            target_name=getattr(target, "_name_or_path", None) or None,
            target_architectures=tuple(getattr(target, "architectures", None) or ()),
            **settings,
        )

    @classmethod
    def read(cls, folder: Path, *, num_target_layers: int | None = None) -> "HeadConfig":
        """The configuration of a head's folder.

        Args:
            folder: With `config.json`.
            num_target_layers: The target's, for a head that does not say which it reads.

        Raises:
            ConfigError: If it is no EAGLE-3 head, or one that cannot be read.
        """
        given = head_settings(folder)
        if given is None:
            raise ConfigError(
                f"{folder} holds no head: expected a config.json with {KIND} (speculators)"
            )
        try:
            return cls._of_settings(given, num_target_layers)
        except ConfigError as error:
            raise ConfigError(f"head {folder}: {error}") from None
        except MISREAD as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"head {folder}: its config.json cannot be read ({reason:.160})"
            ) from error

    @classmethod
    def _of_settings(cls, given: Mapping[str, Any], num_target_layers: int | None) -> "HeadConfig":
        kind = given[KIND]
        if kind != "eagle3":
            raise ConfigError(f"{KIND} is {kind!r}; in this process only eagle3 is supported")
        layer = dict(given["transformer_layer_config"])
        family = layer.pop("model_type", "qwen3")
        if family not in LAYER_FAMILIES:
            raise ConfigError(
                f"a head's layers must be of {' or '.join(LAYER_FAMILIES)}, got {family!r}"
            )
        made = AutoConfig.for_model(family, **layer)
        layers = given.get("eagle_aux_hidden_state_layer_ids")
        if not layers:
            if num_target_layers is None:
                raise ConfigError(
                    "it names no layers of the target (eagle_aux_hidden_state_layer_ids), whose "
                    "number is needed here"
                )
            layers = default_layers(num_target_layers)
        drafted = dict(given.get("speculators_config") or {})
        verifier = dict(drafted.get("verifier") or {})
        proposals = drafted.get("proposal_methods") or [{}]
        return cls(
            layer=made,
            # The engines that serve and record features give them in this order, whatever the list.
            feature_layers=tuple(sorted(int(layer) for layer in layers)),
            draft_vocab_size=int(given.get("draft_vocab_size") or made.vocab_size),
            target_hidden_size=int(given.get("target_hidden_size") or made.hidden_size),
            target_name=verifier.get("name_or_path"),
            target_architectures=tuple(verifier.get("architectures") or ()),
            num_speculative_tokens=int(proposals[0].get("speculative_tokens") or 4),
            **{name: bool(given.get(name, False)) for name in _NORMS},
        )

    def settings(self) -> dict[str, Any]:
        """The contents of a `config.json`: all of the layers' settings, defaults too.

        vLLM reads them without a class that would fill in what is left out.
        """
        layer = self.layer.to_dict()
        return {
            "architectures": ["Eagle3Speculator"],
            KIND: "eagle3",
            "speculators_version": FORMAT_VERSION,
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [
                    {
                        "proposal_type": "greedy",
                        "speculative_tokens": self.num_speculative_tokens,
                        "verifier_accept_k": 1,
                        "accept_tolerance": 0.0,
                    }
                ],
                "verifier": {
                    "name_or_path": self.target_name,
                    "architectures": list(self.target_architectures),
                },
            },
            "transformer_layer_config": layer,
            "draft_vocab_size": self.draft_vocab_size,
            "target_hidden_size": self.target_hidden_size,
            "eagle_aux_hidden_state_layer_ids": list(self.feature_layers),
            **{name: getattr(self, name) for name in _NORMS},
            "embed_requires_grad": False,
            "tie_word_embeddings": False,
        }


def default_layers(num_target_layers: int) -> tuple[int, ...]:
    """The layers that EAGLE-3 reads where nothing is said: an early, the middle and a late one.

    Raises:
        ConfigError: If the target has too few layers for three different ones.
    """
    layers = (2, num_target_layers // 2, num_target_layers - 3)
    if list(layers) != sorted(set(layers)):
        raise ConfigError(
            f"a target of {num_target_layers} layers is too shallow for the usual three "
            f"(2, middle, last but 3: {list(layers)}); name them "
            "(eagle_aux_hidden_state_layer_ids)"
        )
    return layers


def head_settings(folder: Path) -> dict[str, Any] | None:
    """What the `config.json` of a head's folder says; None where the folder holds no head."""
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_head = isinstance(given, dict) and isinstance(given.get(KIND), str)
    return given if is_head else None
