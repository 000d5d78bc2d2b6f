"""The vocabulary of a head that drafts some of the target's tokens only (EAGLE-3 and its like).

Such heads keep two tensors beside their weights: `d2t`, an offset for each draft id (draft id +
offset = target id), and `t2d`, a mask over the target's ids. Their trainers make both of one sorted
list of ids (EAGLE, SpecForge, speculators); vLLM reads `d2t`, training reads `t2d`.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lm_eval_specfair.errors import ConfigError

_NAMES = ("d2t", "t2d")


def vocabulary_maps(target_ids: Tensor, vocab_size: int) -> dict[str, Tensor]:
    """`d2t` and `t2d` of a draft vocabulary.

    Args:
        target_ids: The target's id of each drafted token, ascending, shape (draft_vocab,).
        vocab_size: The target's.
    """
    mask = torch.zeros(vocab_size, dtype=torch.bool, device=target_ids.device)
    mask[target_ids] = True
    numbers = torch.arange(len(target_ids), device=target_ids.device)
    return {"d2t": target_ids - numbers, "t2d": mask}


def vocabulary_tensors(path: Path) -> dict[str, Tensor]:
    """`d2t` and `t2d` of a safetensors file or of a folder of them, as far as they are there.

    Raises:
        ConfigError: If a file cannot be read.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  # it is no dictionary
                    name = key.rpartition(".")[2]
                    if name in _NAMES:
                        found[name] = tensors.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"cannot read {file}: expected a safetensors file "
                f"({str(error).splitlines()[0]:.120})"
            ) from None
    return found


def pruned_vocabulary(path: Path) -> tuple[frozenset[int], int | None]:
    """The target's ids that a head drafts, and the target's vocabulary size where that is known.

    Args:
        path: A safetensors file, or a folder with some.

    Raises:
        ConfigError: If there are no such tensors, or they contradict each other.
    """
    tensors = vocabulary_tensors(path)
    d2t, t2d = tensors.get("d2t"), tensors.get("t2d")
    if d2t is None and t2d is None:
        raise ConfigError(
            f"{path} has neither d2t nor t2d: expected the safetensors file of a head with a "
            "pruned vocabulary, or a drafter with a tokenizer"
        )
    masked = None if t2d is None else _of_mask(t2d, path)
    size = None if t2d is None else len(t2d)
    if d2t is None:
        assert masked is not None
        return frozenset(masked), size
    mapped = _of_offsets(d2t, size, path)
    if masked is not None and mapped != masked:
        raise ConfigError(
            f"{path}: d2t names {len(mapped)} tokens and t2d {len(masked)}, of which "
            f"{len(set(mapped).intersection(masked))} are the same; expected one list of tokens "
            "(draft id + d2t, and the places where t2d is true)"
        )
    return frozenset(mapped), size


def _of_mask(t2d: Tensor, path: Path) -> list[int]:
    values = set(t2d.tolist()) if t2d.ndim == 1 else {None}
    if not values <= {0, 1}:
        raise ConfigError(
            f"{path}: t2d must be a mask over the target's tokens, got {t2d.dtype} of shape "
            f"{tuple(t2d.shape)}"
        )
    ids: list[int] = torch.nonzero(t2d)[:, 0].tolist()
    if not ids:
        raise ConfigError(f"{path}: t2d names no token; was the head saved before it was trained?")
    return ids


def _of_offsets(d2t: Tensor, size: int | None, path: Path) -> list[int]:
    if d2t.ndim != 1 or not len(d2t) or d2t.is_floating_point() or d2t.dtype == torch.bool:
        raise ConfigError(
            f"{path}: d2t must be an offset for each draft token, got {d2t.dtype} of shape "
            f"{tuple(d2t.shape)}"
        )
    offsets = d2t.long()
    ids = (torch.arange(len(d2t)) + offsets).tolist()
    twice, largest = len(ids) - len(set(ids)), max(ids)
    if twice or min(ids) < 0 or (size and largest >= size):
        # What a reader of absolute ids would see; no tool is known to write them.
        absolute = len(set(offsets.tolist())) == len(ids) and int(offsets.min()) >= 0
        hint = (
            " (it looks like target ids; offsets are those less 0, 1, 2, ...)" if absolute else ""
        )
        raise ConfigError(
            f"{path}: d2t must be offsets from draft to target ids, but draft id + d2t gives "
            f"{twice} tokens twice and a largest id of {largest}"
            f"{f' of {size}' if size else ''}{hint}"
        )
    return sorted(ids)
