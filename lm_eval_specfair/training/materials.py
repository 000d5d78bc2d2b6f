"""What a run is made of: answered items, rows, on-policy rows, the target's cache.

What costs time to make is kept in the run's folder, so that a resumed run makes nothing twice.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.checkpoint import cannot_write
from lm_eval_specfair.training.data.items import Item
from lm_eval_specfair.training.data.responses import PROMPT_TOKENS, with_responses
from lm_eval_specfair.training.data.rows import (
    Corpus,
    Row,
    build_corpus,
    check_all_present,
    rows_of,
)
from lm_eval_specfair.training.distil import SplitModel
from lm_eval_specfair.training.job import Job
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.probe import chosen_rows
from lm_eval_specfair.training.teacher_cache import Cache, cache_error

logger = logging.getLogger(__name__)


def _encode(job: Job) -> Any:
    return lambda text: job.tokenizer.encode(text, add_special_tokens=False, verbose=False)


def _eos(job: Job) -> int:
    eos = job.tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise ConfigError("the tokenizer has no end-of-text token, which separates texts")
    return eos


def corpus_of(job: Job, splits: dict[str, list[Item]]) -> Corpus:
    """The splits as rows of tokens."""
    return build_corpus(splits, _encode(job), eos=_eos(job), length=job.config.length)


def answered(job: Job, splits: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """Responses where they lack: the target's. Kept in a file, so that they are written once.

    Raises:
        ConfigError: If the disk is full, or a prompt leaves no room for a response.
    """
    config, path = job.config, job.folder / "responses.jsonl"
    rewrite = config.responses == "target"
    items = [(split, item) for split, found in splits.items() for item in found]
    if not rewrite and all(item.response is not None for _, item in items):
        return splits
    if path.exists():
        written = [_from_line(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        written = with_responses(
            [item for _, item in items],
            job.target,
            job.drafter,
            job.tokenizer,
            temperatures=config.temperatures,
            max_tokens=config.max_response_tokens,
            seed=config.seed,
            rewrite=rewrite,
            prompt_tokens=_prompt_tokens(config),
        )
        lines = [json.dumps(dataclasses.asdict(item), ensure_ascii=False) for item in written]
        fresh = path.with_suffix(".writing")
        try:
            fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
            fresh.rename(path)
        except OSError as error:
            raise cannot_write(path, error) from error
    answered: dict[str, list[Item]] = {split: [] for split in splits}
    for (split, _), item in zip(items, written, strict=True):
        answered[split].append(item)
    return answered


def _from_line(line: str) -> Item:
    fields = json.loads(line)
    tokens = fields.pop("response_tokens")
    membership = tuple((name, share) for name, share in fields.pop("membership"))
    return Item(
        **fields, membership=membership, response_tokens=None if tokens is None else tuple(tokens)
    )


def on_policy_rows(
    job: Job, drafter: PreTrainedModel, items: Sequence[Item], names: tuple[str, ...], step: int
) -> list[Row]:
    """Rows that the drafter writes now: as many as it will read until the next probe."""
    config = job.config
    wanted = math.ceil(config.probe_every * config.rows / len(names)) + 1
    chosen: dict[int, Item] = {}
    for name in names:
        mine = [n for n, item in enumerate(items) if name in dict(item.membership)]
        first = step * config.rows // len(names)
        for turn in range(min(wanted, len(mine))):
            number = mine[(first + turn) % len(mine)]
            chosen[number] = items[number]
    written = with_responses(
        list(chosen.values()),
        drafter,
        None,
        job.tokenizer,
        temperatures=config.temperatures,
        max_tokens=config.max_response_tokens,
        seed=config.seed + step,
        rewrite=True,
        prompt_tokens=_prompt_tokens(config),
    )
    rows = rows_of(written, names, _encode(job), eos=_eos(job), length=config.length)
    check_all_present(rows, names, "train", config.length)
    return rows


def _prompt_tokens(config: TrainConfig) -> int:
    """A row holds a prompt and a response of a text."""
    return min(PROMPT_TOKENS, config.length // 2)


def teacher_cache(job: Job, corpus: Corpus, accelerator: Accelerator) -> Cache:
    """The target's distributions at the training rows, and in a file what lumping them costs.

    Raises:
        ConfigError: If the disk is full or the cache wants more tokens than there are.
    """
    config, path = job.config, job.folder / "teacher_cache.safetensors"
    k = config.cache_top_k or 1
    target, drafter = SplitModel(job.target.eval()), SplitModel(job.drafter)
    with accelerator.main_process_first():
        if not path.exists():
            probe = chosen_rows(corpus.probe, config.probe_rows)
            full, lumped = cache_error(target, drafter, probe, k, config.micro_rows)
            logger.warning(
                "the cache keeps the %d likeliest tokens: KL at the start is %.4f nats per token, "
                "of which it sees %.4f",
                k,
                full,
                lumped,
            )
            report = {"top_k": k, "kl": full, "kl_seen": lumped}
            cache = Cache.build(
                target, corpus.train, k, config.micro_rows, vocab_size=drafter.vocab_size
            )
            fresh = path.with_suffix(".writing")
            try:
                (job.folder / "teacher_cache.json").write_text(json.dumps(report), encoding="utf-8")
                cache.save(fresh)
                fresh.rename(path)
            except (OSError, SafetensorError) as error:
                fresh.unlink(missing_ok=True)
                raise cannot_write(path, error) from error
    return Cache.load(path)
