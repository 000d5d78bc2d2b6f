"""The inputs of a training run: models and items, responses, rows, and the target's recorded side.

What costs time to make is kept on disk, so that a resumed run makes nothing twice.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair import divergence
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import replacing, write_file
from lm_eval_specfair.text_lines import file_lines
from lm_eval_specfair.training import teacher_cache
from lm_eval_specfair.training.artifacts.checkpoint import cannot_write
from lm_eval_specfair.training.data.batches import collate
from lm_eval_specfair.training.data.items import Item
from lm_eval_specfair.training.data.responses import PROMPT_TOKENS, with_responses
from lm_eval_specfair.training.data.rows import Corpus, Row, check_all_present, chosen_rows, rows_of
from lm_eval_specfair.training.distil import Distiller, SplitModel, Teacher
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.teacher_cache import CACHE_FILE, RecordedTeacher, TeacherRecord
from lm_eval_specfair.training.weighting import Weighting

logger = logging.getLogger(__name__)

RESPONSES_FILE = "responses.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What is trained on what."""

    target: PreTrainedModel | None  # frozen; None where a teacher cache stands for it
    # Trained in place: a PreTrainedModel, perhaps with adapters, or a head, None until it is made.
    drafter: Any
    tokenizer: PreTrainedTokenizerBase
    items: Sequence[Item]
    config: TrainConfig
    weighting: Weighting  # config.weighting, parsed
    folder: Path  # where the finished drafter goes
    # What else distinguishes this run (names, digests), for `train.json`.
    described: dict[str, Any] = dataclasses.field(default_factory=dict)
    tracker: str | None = None  # one that accelerate knows
    # The target's recorded side, for several runs; None to record into `folder`, if at all.
    teacher_cache: Path | None = None
    target_is_placed: bool = False  # whether its layers are where they are to stay
    distiller: nn.Module | None = None  # the drafter with its loss, where it is no PreTrainedModel
    fewest_groups: int = 2  # one alone has nobody to share with, but may get a drafter of its own

    @property
    def record_folder(self) -> Path:
        """Where responses and the target's distributions are kept."""
        return self.teacher_cache or self.folder

    def encode(self, text: str) -> list[int]:
        """Token ids without special ones."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    @property
    def eos(self) -> int:
        """The token between texts; a tokenizer that has none is refused."""
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise ConfigError("the tokenizer has no end-of-text token, which separates texts")
        return eos

    def written(
        self, items: Sequence[Item], writer: PreTrainedModel, **settings: Any
    ) -> list[Item]:
        """Items with responses of a model; settings as of `with_responses`."""
        config = self.config
        return with_responses(
            items,
            writer,
            tokenizer=self.tokenizer,
            temperatures=config.temperatures,
            max_tokens=config.max_response_tokens,
            # A row holds a prompt and a response of a text.
            prompt_tokens=min(PROMPT_TOKENS, config.length // 2),
            **settings,
        )


def answered(job: TrainingJob, splits: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """Responses where they are missing: the target's. Kept in a file, to be written once.

    Raises:
        ConfigError: If the disk is full, a prompt leaves no room for a response, or the file has
            those of other items.
    """
    path = job.record_folder / RESPONSES_FILE
    rewrite = job.config.responses == "target"
    items = [item for of_split in splits.values() for item in of_split]
    if not rewrite and all(item.response is not None for item in items):
        return splits
    if path.exists():
        try:
            written = [msgspec.json.decode(line, type=Item) for line in file_lines(path)]
        except (OSError, ValueError) as error:  # what msgspec raises is a ValueError
            raise ConfigError(f"{path} cannot be read ({error}); remove it") from error
        if [(x.item, x.membership) for x in written] != [(x.item, x.membership) for x in items]:
            raise ConfigError(
                f"{path} has responses to other prompts: use the --data and --seed that it was "
                "written for, or another folder"
            )
    elif job.target is None:
        raise ConfigError(f"{path} is missing, and there is no target to write the responses")
    else:
        drafter = job.drafter
        helps = isinstance(drafter, PreTrainedModel) and job.target.device == drafter.device
        helper = drafter if helps else None
        settings = {"helper": helper, "seed": job.config.seed, "rewrite": rewrite}
        written = job.written(items, job.target, **settings)
        lines = (json.dumps(dataclasses.asdict(item), ensure_ascii=False) for item in written)
        write_file(path, "".join(line + "\n" for line in lines))
    iterator = iter(written)
    return {split: [next(iterator) for _ in of_split] for split, of_split in splits.items()}


def on_policy_rows(
    job: TrainingJob,
    items: Sequence[Item],
    names: tuple[str, ...],
    drafter: PreTrainedModel,
    step: int,
) -> list[Row]:
    """Rows that the drafter writes now: as many as it will read until the next probe."""
    config = job.config
    per_group = math.ceil(config.probe_every * config.rows / len(names)) + 1
    first = step * config.rows // len(names)
    chosen: dict[int, Item] = {}
    for name in names:
        mine = [n for n, item in enumerate(items) if name in dict(item.membership)]
        turns = range(first, first + min(per_group, len(mine)))
        chosen |= {n: items[n] for n in (mine[turn % len(mine)] for turn in turns)}
    settings = {"helper": None, "seed": config.seed + step, "rewrite": True}
    written = job.written(list(chosen.values()), drafter, **settings)
    rows = rows_of(written, names, job.encode, eos=job.eos, length=config.length)
    check_all_present(rows, names, "train", config.length)
    return rows


def recorded_teacher(
    job: TrainingJob, target: SplitModel | None, corpus: Corpus, accelerator: Accelerator
) -> RecordedTeacher:
    """The target's distributions at rows, recorded unless they are on disk.

    Rows are those that are learnt from; in a folder for several runs also those that are measured,
    so that later runs need no target.

    Raises:
        ConfigError: If the disk is full, or the folder has recorded other rows.
    """
    folder, probe_rows = job.record_folder, job.config.probe_rows
    probe = chosen_rows(corpus.probe, probe_rows)
    measured = [*probe, *chosen_rows(corpus.test, probe_rows)] if job.teacher_cache else []
    rows = [*corpus.train, *measured]
    with accelerator.main_process_first():
        record = teacher_cache.read_record(folder)
        if record is None:
            assert target is not None
            record = _record(job, target, rows, probe)
    if record.rows != teacher_cache.digest_of(rows):
        raise ConfigError(
            f"the teacher cache in {folder} was recorded for other rows: use the --data, --seed, "
            "--length, --probe-rows and responses that it was recorded with, or another folder"
        )
    try:
        tensors = load_file(folder / CACHE_FILE)
        teacher, needed = RecordedTeacher(tensors, rows, record), int(tensors["vocab_size"])
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(f"{folder} is not a teacher cache ({error}); remove it") from error
    size = job.drafter.config.get_text_config(decoder=True).vocab_size
    if needed > size:
        raise ConfigError(
            f"the teacher cache in {folder} needs a drafter with scores for {needed} tokens, got "
            f"one for {size}"
        )
    return teacher


def _record(
    job: TrainingJob, target: SplitModel, rows: Sequence[Row], probe: Sequence[Row]
) -> TeacherRecord:
    config, folder = job.config, job.record_folder
    k, micro_rows = config.cache_top_k or 1, config.micro_rows
    drafter = Distiller(job.drafter, divergence.kl)
    vocab_size = int(job.drafter.config.get_text_config(decoder=True).vocab_size)
    size = sum(row.num_learnt for row in rows) * 4 * (2 * k + 1)
    logger.warning(
        "recording the target's %d most likely tokens at %d rows: %.1f MiB in %s",
        *(k, len(rows), size / 2**20, folder),
    )
    names = ("target", "target_weights", "quantize_target")
    record = TeacherRecord(
        top_k=k,
        kl=_mean_kl(drafter, target, probe, micro_rows),
        kl_seen=0.0,
        rows=teacher_cache.digest_of(rows),
        num_parameters=target.num_parameters,
        **{name: job.described.get(name) for name in names},
    )
    of_probe = teacher_cache.cache_of(target, probe, k, micro_rows, vocab_size=vocab_size)
    lumped = RecordedTeacher(of_probe, probe, record)
    record = msgspec.structs.replace(record, kl_seen=_mean_kl(drafter, lumped, probe, micro_rows))
    logger.warning(
        "KL at the start is %.4f nats per token, of which the %d tokens and the mass of the rest "
        "see %.4f",
        *(record.kl, k, record.kl_seen),
    )
    tensors = teacher_cache.cache_of(target, rows, k, micro_rows, vocab_size=vocab_size)
    write_file(folder / teacher_cache.RECORD_FILE, msgspec.json.encode(record))
    try:
        with replacing(folder / CACHE_FILE) as fresh:
            save_file(tensors, fresh)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder / CACHE_FILE, error) from error
    return record


@torch.no_grad()
def _mean_kl(drafter: Distiller, teacher: Teacher, rows: Sequence[Row], micro_rows: int) -> float:
    """KL in nats per token, as a teacher sees it."""
    device, total = drafter.drafter.device, 0.0
    for first in range(0, len(rows), micro_rows):
        part = rows[first : first + micro_rows]
        tokens, counted = collate(part, device)
        weights = torch.ones(int(counted.sum()), dtype=torch.float64, device=device)
        kl, _ = drafter(tokens, counted, weights, teacher.read(tokens, counted, part))
        total += float(kl)
    return total / sum(row.num_learnt for row in rows)
