"""Small pairs, texts and runs for the tests of training; all of it real."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.training.data.items import Item
from lm_eval_specfair.training.inputs import TrainingJob
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.weighting import parse

SMALL = {
    "weighting": "s-cdf:apply=loss,signal=kl",  # every group is in every batch
    "tokens": 4 * 6 * 16,  # four steps
    "rows": 6,
    "micro_rows": 6,
    "length": 16,
    "num_probes": 2,
    "probe_rows": 2,
    "learning_rate": 3e-3,
    "split_share": 0.2,
    "checkpoint_seconds": 1e9,
}


def texts(num_items: int = 24) -> list[Item]:
    """Three groups with parallel items, of unequal lengths; group c has a prompt in each."""
    items = []
    for number in range(num_items):
        for group, word, times in (("a", "alpha ", 4), ("b", "beta b", 2)):
            text = f"{word * times}{number}"
            items.append(Item(item=f"{number}", membership=((group, 1.0),), response=text))
        items.append(
            Item(
                item=f"{number}",
                membership=(("c", 1.0),),
                prompt=f"gamma {number}",
                response="delta " * 2,
            )
        )
    return items


def pair(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    return llama(0).to(dtype), llama(1, layers=1).to(dtype)


def fresh_accelerate() -> None:
    """It keeps precision and devices for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def job(folder: Path, *, models: tuple[Any, Any] | None = None, **settings: Any) -> TrainingJob:
    """A run of four steps on tiny models."""
    fresh_accelerate()
    target, drafter = models or pair()
    items = settings.pop("items", None) or texts()
    config = TrainConfig(**(SMALL | settings))
    return TrainingJob(
        target=target,
        drafter=copy.deepcopy(drafter),
        tokenizer=byte_tokenizer(),
        items=items,
        config=config,
        weighting=parse(config.weighting),
        folder=folder,
    )


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line) for line in (folder / "training_log.jsonl").read_text().split("\n")[:-1]
    ]


def without_seconds(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(folder)]
