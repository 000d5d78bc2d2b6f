"""Folders of heads in the form of vLLM's speculators: `config.json` and `model.safetensors`."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file

from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_config import HeadConfig, head_settings
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import (
    pruned_vocabulary,
    vocabulary_maps,
)
from lm_eval_specfair.errors import ConfigError

# What trainers keep beside a head: the target's own, which they compare with.
_NOT_THE_HEADS = ("verifier_norm.weight", "verifier_lm_head.weight")
_FOR_HUB = ("cache_dir", "token", "local_files_only", "revision")
_EMBEDDING = "embed_tokens.weight"
# As the reference code of EAGLE-3 and SpecForge call the only layer.
_OTHER_NAMES = {"midlayer.": "layers.0."}


def read_head(
    folder: Path, *, num_target_layers: int | None = None, dtype: torch.dtype | None = None
) -> Eagle3Head:
    """A head, in evaluation mode; without an embedding in its files it needs the target's.

    Args:
        folder: With `config.json` and safetensors.
        num_target_layers: See `HeadConfig.read`.
        dtype: Of its weights; the file's if None.

    Raises:
        ConfigError: If it is no EAGLE-3 head, or its tensors are not its configuration's.
    """
    config = HeadConfig.read(folder, num_target_layers=num_target_layers)
    tensors = _tensors(folder)
    head = Eagle3Head(config, own_embedding=_EMBEDDING in tensors)
    if config.is_pruned:
        _check_maps(folder, config)
        if "d2t" not in tensors:
            ids = tensors["t2d"].bool().nonzero()[:, 0]
            tensors["d2t"] = vocabulary_maps(ids, config.vocab_size)["d2t"]
        tensors.setdefault("t2d", torch.zeros(config.vocab_size, dtype=torch.bool))
        tensors["t2d"] = tensors["t2d"].bool()
    else:  # maps of a whole vocabulary say nothing
        tensors = {name: each for name, each in tensors.items() if name not in ("d2t", "t2d")}
    expected = head.state_dict()
    if missing := sorted(set(expected) - set(tensors)):
        raise ConfigError(
            f"head {folder} lacks weights: {len(missing)} tensors of its configuration are in no "
            f"file ({', '.join(missing[:3])}, ...); copy it anew, or mend config.json"
        )
    if surplus := sorted(set(tensors) - set(expected)):
        raise ConfigError(
            f"head {folder}: its files hold {len(surplus)} tensors beyond its configuration "
            f"({', '.join(surplus[:3])}, ...); mend config.json"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ConfigError(
                f"head {folder}: its configuration expects {name} of shape "
                f"{tuple(expected[name].shape)}, got {tuple(tensor.shape)} in its file"
            )
    kept = dtype or tensors["fc.weight"].dtype
    head.to(kept).load_state_dict(tensors)
    if head.t2d is not None:
        head.t2d.zero_()[head.target_ids] = True
    return head.eval()


def write_head(head: Eagle3Head, folder: Path) -> None:
    """Write a head as speculators do, so that they and vLLM read it; the folder may exist.

    Its embedding is written where it is known, also one that is the target's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = head.config.settings()
    weight = head.fc.weight
    settings["dtype"] = str(weight.dtype).removeprefix("torch.")
    tensors = {name: each.detach().cpu().contiguous() for name, each in head.state_dict().items()}
    if (embedding := head.embedding) is not None:
        # The target's too, so that readers need not find its files; vLLM holds one where the two
        # are equal.
        tensors[_EMBEDDING] = embedding.detach().to(weight.dtype).cpu().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"head {folder} has no *.safetensors; copy it anew")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # it is no dictionary
                    if name not in _NOT_THE_HEADS:
                        found[_own_name(name)] = tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot read {file}: expected a safetensors file; copy it anew "
                f"({str(error).splitlines()[0]:.120})"
            ) from None
    return found


def _own_name(name: str) -> str:
    for other, own in _OTHER_NAMES.items():
        if name.startswith(other):
            return own + name.removeprefix(other)
    return name


def _check_maps(folder: Path, config: HeadConfig) -> None:
    """Raise ConfigError where the maps contradict each other or the configuration."""
    ids, size = pruned_vocabulary(folder)
    if len(ids) != config.draft_vocab_size:
        raise ConfigError(
            f"head {folder}: its maps (d2t, t2d) name {len(ids)} tokens, draft_vocab_size says "
            f"{config.draft_vocab_size}"
        )
    if max(ids) >= config.vocab_size or size not in (None, config.vocab_size):
        raise ConfigError(
            f"head {folder}: its maps (d2t, t2d) are for a target of {size or max(ids) + 1} "
            f"tokens, its configuration says {config.vocab_size}"
        )


def found_head(name: object, **for_hub: Any) -> Path | None:
    """The folder of a head, by its own path or a hub id; None where a name is no head's.

    Args:
        name: What a drafter was called.
        for_hub: `cache_dir`, `token` and `local_files_only`, with which it is found on the hub.
    """
    if not isinstance(name, str):
        return None
    if Path(name).is_dir():
        return Path(name) if head_settings(Path(name)) is not None else None
    given = {key: value for key, value in for_hub.items() if key in _FOR_HUB}
    try:
        config = cached_file(name, "config.json", **given)
    except (OSError, ValueError):
        return None  # whoever loads it says what is wrong
    if config is None or head_settings(Path(config).parent) is None:
        return None
    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], **given))


def fit_to(head: Eagle3Head, target: PreTrainedModel, name: str) -> None:
    """Have a head draft for a target, whose embedding it reads if it has none of its own.

    Raises:
        ConfigError: If it was made for another target.
    """
    config, text = head.config, target.config.get_text_config(decoder=True)
    of_target = int(text.hidden_size), int(text.vocab_size)
    expected = config.target_hidden_size, config.vocab_size
    if of_target != expected:
        made_for = f" ({config.target_name})" if config.target_name else ""
        raise ConfigError(
            f"head {name!r} is another target's{made_for}: it expects hidden states of "
            f"{expected[0]} and {expected[1]} tokens, the target has {of_target[0]} and "
            f"{of_target[1]}"
        )
    embedding = target.get_input_embeddings().weight
    if head.embed_tokens is not None:
        own = head.embed_tokens.weight
        if own.shape != embedding.shape or not torch.equal(own.to(embedding), embedding):
            return
    if config.hidden_size != config.target_hidden_size:
        raise ConfigError(
            f"head {name!r} has no embedding (embed_tokens.weight), and is too narrow for the "
            f"target's: {config.hidden_size}, not {config.target_hidden_size}; copy it anew"
        )
    head.read_embedding_of(embedding)


def head_facts(head: Eagle3Head) -> dict[str, Any]:
    """What `run.json` says of a head (`drafter_head`)."""
    config = head.config
    return {
        "kind": "eagle3",
        "made_for": config.target_name,
        "feature_layers": list(config.feature_layers),
        "draft_vocab_size": config.draft_vocab_size,
        "has_own_embedding": head.embed_tokens is not None,
    }
