"""Documents of the suites that `texts.py` writes; copied beside their YAMLs, which name it."""

import json
from pathlib import Path
from typing import Any

import datasets

from lm_eval_specfair.harness.tasks import Pair, acceptance_metrics


def load(*, name: str, **_: Any) -> datasets.DatasetDict:
    """A task's prompts."""
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return datasets.DatasetDict(
        {"test": datasets.Dataset.from_list([json.loads(x) for x in lines])}
    )


def acceptance(_: dict[str, Any], results: list[str]) -> dict[str, Pair]:
    """How a text was accepted."""
    # lm-eval averages what a task does not list, and these are pairs.
    found = acceptance_metrics(results[0])
    return {name: pair for name, pair in found.items() if name == "mean_acceptance_length"}
