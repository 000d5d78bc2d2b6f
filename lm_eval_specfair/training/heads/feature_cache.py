"""What a head reads of its target, on disk: hidden states at all rows, so that they are made once.

Layers times width of numbers a token, far more than a teacher cache's likely tokens: for a corpus
that is read several times, on a disk that has room.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.training.artifacts.checkpoint import cannot_write
from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.rows import Row
from lm_eval_specfair.training.distil import LiveTarget
from lm_eval_specfair.training.heads.head_distiller import HeadTarget, HeadTeacher
from lm_eval_specfair.training.teacher_cache import digest_of

logger = logging.getLogger(__name__)

FEATURES_FILE, STATES_FILE, RECORD_FILE = (
    "head_features.npy", "head_states.npy", "head_features.json",
)  # fmt: skip

Stored = npt.NDArray[np.float32]


class CachedHeadTeacher:
    """A teacher that reads rows' hidden states from disk, in fp32; its target scores them."""

    def __init__(
        self, teacher: HeadTeacher, rows: Sequence[Row], folder: Path, *, micro_rows: int
    ) -> None:
        """Record the rows, or take what was recorded of them; its size is said first.

        Raises:
            ConfigError: If the disk is full, or the folder has recorded other rows.
        """
        self._teacher = teacher
        record = folder / RECORD_FILE
        digest = digest_of(rows)
        if not record.exists():
            _record(teacher, rows, folder, micro_rows)
            write_file(record, json.dumps({"rows": digest}))
        elif json.loads(record.read_text("utf-8")).get("rows") != digest:
            raise ConfigError(f"{folder} has recorded features of other rows; remove {record}")
        self._features: Stored = np.load(folder / FEATURES_FILE, mmap_mode="r")
        self._states: Stored = np.load(folder / STATES_FILE, mmap_mode="r")
        places = _places(rows)
        self._places = {id(row): place for row, place in zip(rows, places, strict=True)}

    @property
    def num_parameters(self) -> int:
        return self._teacher.num_parameters

    def read(self, tokens: Tensor, counted: Tensor, rows: Sequence[Row] = ()) -> HeadTarget:
        """As the target's pass gives it; `rows` are those of the batch."""
        places = [self._places[id(row)] for row in rows]
        features = torch.zeros(*tokens.shape, self._features.shape[1], device=tokens.device)
        for number, (of_tokens, _) in enumerate(places):
            kept = torch.from_numpy(np.array(self._features[of_tokens]))
            features[number, : len(kept)] = kept.to(tokens.device)
        states = np.concatenate([self._states[of_learnt] for _, of_learnt in places])
        live = LiveTarget(self._teacher.scoring, torch.from_numpy(states).to(tokens.device))
        return HeadTarget(features, live)


def forget_features(folder: Path) -> None:
    """Remove what was recorded: a finished run needs it no more."""
    for name in (RECORD_FILE, FEATURES_FILE, STATES_FILE):
        (folder / name).unlink(missing_ok=True)


def _places(rows: Sequence[Row]) -> list[tuple[slice, slice]]:
    """Of each row its tokens' lines, and those of what is learnt from."""
    tokens = np.cumsum([0, *(len(row.tokens) for row in rows)]).tolist()
    learnt = np.cumsum([0, *(row.num_learnt for row in rows)]).tolist()
    return [(slice(*tokens[n : n + 2]), slice(*learnt[n : n + 2])) for n in range(len(rows))]


def _record(teacher: HeadTeacher, rows: Sequence[Row], folder: Path, micro_rows: int) -> None:
    places = _places(rows)
    num_tokens, num_learnt = places[-1][0].stop, places[-1][1].stop
    files: list[Any] = []
    device = teacher.device
    try:
        for first in range(0, len(rows), micro_rows):
            part = rows[first : first + micro_rows]
            tokens, counted = collate(part, device)
            read = teacher.read(tokens, counted, part)
            features, states = read.features.float().cpu(), read.live.states.float().cpu()
            if not files:
                widths = features.shape[-1], states.shape[-1]
                size = 4 * (num_tokens * widths[0] + num_learnt * widths[1])
                logger.warning(
                    "recording the target's hidden states at %d rows: %.1f MiB in %s",
                    *(len(rows), size / 2**20, folder),
                )
                for name, shape in (
                    (FEATURES_FILE, (num_tokens, widths[0])),
                    (STATES_FILE, (num_learnt, widths[1])),
                ):
                    opened = np.lib.format.open_memmap(
                        folder / name, mode="w+", dtype=np.float32, shape=shape
                    )
                    files.append(opened)
            begin = places[first][1].start
            files[1][begin : begin + len(states)] = states.numpy()
            for number, (of_tokens, _) in enumerate(places[first : first + len(part)]):
                length = of_tokens.stop - of_tokens.start
                files[0][of_tokens] = features[number, :length].numpy()
        for file in files:
            file.flush()
    except OSError as error:
        raise cannot_write(folder / FEATURES_FILE, error) from error
