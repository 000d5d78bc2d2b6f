"""The target's pass over finished texts, kept on disk: its last layer's outputs at the responses.

With the head, which is kept beside them, they give the target's scores again, exactly, at any
sampling settings and for any drafter: the target itself is not needed a second time. A file is
written for each batch, so that whoever is killed loses one batch.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import cannot_write, replacing, write_files
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass, Reading, positions_of, tokens_of
from lm_eval_specfair.replays.passes.quick_products import QuickLinear
from lm_eval_specfair.replays.passes.score_head import ScoreMap
from lm_eval_specfair.replays.passes.text_batches import TextBatch

_RECORD, _HEAD, _OUTPUTS = "target_pass.json", "head.safetensors", "outputs-*.safetensors"


class PassRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Whose pass a folder keeps (`target_pass.json`)."""

    target: str
    weights: str | None  # digest
    dtype: str
    vocab_size: int
    max_length: int
    factor: float  # of scores, see `ScoreMap`
    cap: float | None
    schema_version: int = 1


class KeptPass:
    """Reads finished texts from a folder, and with the target those that are not there yet."""

    def __init__(
        self, folder: Path, record: PassRecord, head: nn.Linear, device: torch.device
    ) -> None:
        self.folder, self.record, self.device = folder, record, device
        self.vocab_size, self.max_length = record.vocab_size, record.max_length
        self.live: OnePass | None = None
        """The target, where it is at hand."""
        self._linear = head
        self._files: dict[str, Path] = {}
        is_quick = device.type == "cpu" and head.weight.dtype == torch.float32
        matrix = QuickLinear(head) if is_quick else head.to(device)
        scores_of = ScoreMap(factor=record.factor, cap=record.cap)
        self._head: Callable[[Tensor], Tensor] = lambda outputs: scores_of(matrix(outputs))

    @classmethod
    def found(cls, folder: Path, device: torch.device) -> "KeptPass | None":
        """What a folder keeps; None if it is empty or not there.

        Raises:
            ConfigError: If it holds anything else, or is damaged.
        """
        if not (folder / _RECORD).exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ConfigError(
                    f"--target-cache {folder} holds something else than a target's pass; name a "
                    "new folder"
                )
            return None
        try:
            record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=PassRecord)
            tensors = load_file(folder / _HEAD)
            kept = cls(folder, record, _linear(tensors), device)
            for path in sorted(folder.glob(_OUTPUTS)):
                with safe_open(path, framework="pt") as file:
                    kept._files.update(dict.fromkeys(file.keys(), path))
        except (OSError, msgspec.DecodeError, SafetensorError, KeyError) as error:
            raise _damaged(folder, error) from None
        return kept

    @classmethod
    def new(cls, folder: Path, live: OnePass, target: str, weights: str | None) -> "KeptPass":
        """The pass of a target, of which nothing is kept yet; the folder is made with the first.

        Raises:
            ConfigError: If the target's scores do not follow from its last layer's output.
        """
        head, scores_of = live.matrix, live.score_map
        if scores_of is None or not isinstance(head, nn.Linear):
            raise ConfigError(
                f"--target-cache: the scores of {target} are more than a matrix times its last "
                "layer's output, which is what a cache keeps; leave the option out"
            )
        record = PassRecord(
            target=target,
            weights=weights,
            dtype=str(head.weight.dtype).removeprefix("torch."),
            vocab_size=live.vocab_size,
            max_length=live.max_length,
            factor=scores_of.factor,
            cap=scores_of.cap,
        )
        kept = cls(folder, record, head, live.device)
        kept.live = live
        return kept

    @property
    def tokens_at_once(self) -> int:
        """Most padded tokens of one pass."""
        return tokens_of(self.device)

    @property
    def positions_at_once(self) -> int:
        """Positions whose scores are looked at together."""
        return positions_of(self.device, self.vocab_size)

    def missing(self, texts: Sequence[KnownText]) -> list[KnownText]:
        """Texts that the target has still to read."""
        return [text for text in texts if key_of(text) not in self._files]

    def num_bytes(self, texts: Sequence[KnownText]) -> tuple[int, int]:
        """What keeping texts takes on disk: their outputs, and the head if it is not there yet."""
        weight = self._linear.weight
        positions = sum(len(text.response) for text in texts)
        head = 0 if (self.folder / _RECORD).exists() else weight.numel()
        size = weight.element_size()
        return positions * weight.shape[1] * size, head * size

    def refuse_too_large(self, texts: Sequence[KnownText]) -> None:
        """Raise ConfigError where the disk has not the room for what is missing of texts."""
        place = next(
            path for path in (self.folder, *self.folder.absolute().parents) if path.exists()
        )
        free, needed = shutil.disk_usage(place).free, sum(self.num_bytes(self.missing(texts)))
        if needed > free:
            raise ConfigError(
                f"--target-cache {self.folder} needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} "
                "MB are free; name a folder on another disk, or leave the option out"
            )

    def read(self, batch: TextBatch, *, to_its_end: bool = False) -> Reading:
        """Read a batch, what is kept of it from the disk.

        Raises:
            ConfigError: If the target is needed and not at hand, cannot read the texts, or the
                folder cannot be read or written.
        """
        missing = self.missing(batch.texts)
        fresh: Mapping[str, Tensor] = {}
        if missing:
            assert self.live is not None
            reading = self.live.read(TextBatch(missing, batch.num_shared), to_its_end=to_its_end)
            lengths = [len(text.response) for text in missing]
            parts = torch.split(reading.outputs, lengths)
            fresh = {key_of(text): part for text, part in zip(missing, parts, strict=True)}
            self._keep(fresh)
        kept = self._of_disk([key for text in batch.texts if (key := key_of(text)) not in fresh])
        outputs = [fresh[k] if (k := key_of(text)) in fresh else kept[k] for text in batch.texts]
        return Reading(torch.cat([part.to(self.device) for part in outputs]), self._head)

    def _keep(self, outputs: Mapping[str, Tensor]) -> None:
        name = hashlib.sha256("".join(outputs).encode()).hexdigest()[:32]
        path = self.folder / _OUTPUTS.replace("*", name)
        try:
            if not (self.folder / _RECORD).exists():
                self._begin()
            with replacing(path) as file:
                save_file({key: part.contiguous().cpu() for key, part in outputs.items()}, file)
        except (OSError, SafetensorError) as error:
            advice = "free some room, or leave out --target-cache"
            raise cannot_write(path, error, advice) from None
        self._files.update(dict.fromkeys(outputs, path))

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        linear = self._linear
        tensors = {"weight": linear.weight.detach().contiguous().cpu()}
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach().contiguous().cpu()
        with replacing(self.folder / _HEAD) as file:
            save_file(tensors, file)
        write_files(self.folder, {_RECORD: msgspec.json.encode(self.record)})

    def _of_disk(self, keys: Sequence[str]) -> dict[str, Tensor]:
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self._files[key], []).append(key)
        found = {}
        try:
            for path, own in by_file.items():
                with safe_open(path, framework="pt") as file:
                    found.update({key: file.get_tensor(key) for key in own})
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder, error) from None
        return found


def key_of(text: KnownText) -> str:
    """Names what a model reads of a text."""
    digest = hashlib.sha256(np.array(text.prompt, dtype="<i8").tobytes())
    digest.update(b"response")
    digest.update(np.array(text.response, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def _linear(tensors: Mapping[str, Tensor]) -> nn.Linear:
    weight, bias = tensors["weight"], tensors.get("bias")
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    head.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        head.bias = nn.Parameter(bias, requires_grad=False)
    return head


def _damaged(folder: Path, error: Exception) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(f"--target-cache {folder} is damaged ({reason:.150}): remove the folder")
