"""Digests of the weights that a model was made from, wherever they were read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from lm_eval_specfair.errors import ConfigError

SAFE, OTHERS = "*.safetensors", ("*.bin", "*.pt", "*.pth", "*.gguf")
_INDEX = "*.index.json"
# Arguments of the target's loading that decide which weights it has: two runs that differ in one
# have two targets. Their neutral values say nothing.
_LOADING = (
    "gguf_file", "peft", "delta", "revision", "subfolder", "variant", "use_safetensors", "autogptq",
    "gptqmodel", "load_in_8bit", "load_in_4bit", "quantization_config",
)  # fmt: skip
_NEUTRAL = ("", "main")


def loading_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How a target is loaded, as far as that decides its weights; empty for a plain folder.

    Adapters and deltas have their digest beside them (`peft_weights`).
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        is_own = name in _LOADING or name.startswith(("bnb_4bit_", "llm_int8_"))
        if name == "use_safetensors":
            is_own, value = value in (False, "False", "false"), False
        elif value is None or value is False or value in _NEUTRAL:
            is_own = False
        if is_own:
            found[name] = _plain(value)
        if is_own and name in ("peft", "delta"):
            found[f"{name}_weights"] = digest_on_disk(str(value))
    return found


def _plain(value: object) -> object:
    """A value as JSON can hold it; a quantisation's settings as what they are made of."""
    made = getattr(value, "to_dict", None)
    if made is not None:
        value = made()
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def digest_on_disk(name: str) -> str | None:
    """`weights_digest` of a folder or hub id whose weights are not loaded here."""
    if Path(name).is_dir():
        return weights_digest(name, None)
    try:
        commit = getattr(AutoConfig.from_pretrained(name), "_commit_hash", None)
    except (OSError, ValueError):
        return None
    return f"commit:{commit}" if commit else None


def weights_digest(
    source: object, model: Any, arguments: Mapping[str, Any] | None = None
) -> str | None:
    """An identity of the weights from a source: a folder, a hub id, or the loaded model itself.

    Args:
        source: A folder or hub id; anything else stands for a model that came loaded.
        model: The model; None if it is not loaded here.
        arguments: With which it was loaded (`gguf_file`, `subfolder`, `use_safetensors`).

    Returns:
        `sha256:...` over the files of weights that a folder holds, `commit:...` for a hub id (None
        if it has none), `tensors:...` over the parameters of a model that came loaded, since it may
        have been changed whatever its name, or whose folder holds no such files.
    """
    if not isinstance(source, str):
        return f"tensors:{_tensors_digest(model)}"
    given = arguments or {}
    folder = Path(source, given.get("subfolder") or "")
    if folder.is_dir():
        files = _weight_files(folder, given)
        if files:
            return f"sha256:{_files_digest(files)}"
        return None if model is None else f"tensors:{_tensors_digest(model)}"
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return f"commit:{commit}" if commit else None


def _weight_files(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Path]:
    """The files of weights, by name: the one that was named, else those that are read first."""
    if arguments.get("gguf_file"):
        named = folder / str(arguments["gguf_file"])
        return {named.name: named} if named.is_file() else {}
    files = _found(folder, SAFE)
    if not files or arguments.get("use_safetensors") in (False, "False", "false"):
        for pattern in OTHERS:
            files |= _found(folder, pattern)
    return files


def _found(folder: Path, pattern: str) -> dict[str, Path]:
    """Files of a folder, and those of their kind that an index of shards names below it."""
    files = {path.name: path for path in folder.glob(pattern)}
    for index in folder.glob(_INDEX):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue  # whoever loads it says what is wrong with it
        for shard in shards:
            path = folder / str(shard)
            if path.match(pattern) and path.is_file():
                files[str(shard)] = path
    return files


def _files_digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode())
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def _tensors_digest(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    parts = [part for item in model.state_dict().items() for part in _parts(*item)]
    for name, tensor in sorted(parts, key=lambda part: part[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        # As bytes, since numpy knows no bfloat16.
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def _parts(name: str, tensor: Any) -> list[tuple[str, torch.Tensor]]:
    """A tensor, or the plain ones that a quantised one is made of, with their names."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [(name, tensor)]
    inner, _ = tensor.__tensor_flatten__()
    return [part for each in inner for part in _parts(f"{name}.{each}", getattr(tensor, each))]
