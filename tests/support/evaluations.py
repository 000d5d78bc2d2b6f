"""Requests, models and evaluations for the tests of the lm-eval integration; all of it real."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from msgspec import structs

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.recording.recorded_model import RecordedLM
from lm_eval_specfair.records import Record, read_records

# What may differ between two runs of the same requests.
CIRCUMSTANCES = {
    "draft_seconds",
    "verify_seconds",
    "decode_seconds",
    "prefill_seconds",
    "baseline_seconds",
    "num_active_rows_sum",
}


def generation(
    prompt: str, doc_id: int = 0, *, task: str = "toy", repeats: int = 1, **gen_kwargs: Any
) -> Instance:
    return Instance(
        request_type="generate_until",
        doc={"prompt": prompt},
        arguments=(prompt, {"until": [], "max_gen_toks": 20} | gen_kwargs),
        idx=0,
        metadata=(task, doc_id, repeats),
    )


def scoring(context: str, continuation: str, doc_id: int = 0, idx: int = 0) -> Instance:
    return Instance(
        request_type="loglikelihood",
        doc={},
        arguments=(context, continuation),
        idx=idx,
        metadata=("toy", doc_id, 1),
    )


def rolling(text: str, doc_id: int = 0) -> Instance:
    return Instance(
        request_type="loglikelihood_rolling",
        doc={},
        arguments=(text,),
        idx=0,
        metadata=("toy", doc_id, 1),
    )


def specfair(pair: Path, records_dir: Path | None, **arguments: Any) -> SpecFairLM:
    """The pair on disk behind `--model specfair`."""
    given = {
        "drafter": str(pair / "drafter"),
        "device": "cpu",
        "baseline": 0,
        "records_dir": None if records_dir is None else str(records_dir),
    }
    return SpecFairLM(str(pair / "target"), **(given | arguments))


def answers(model: HFLM, requests: list[Instance]) -> list[str]:
    """The texts of generation requests, and the run's end, as lm-eval makes a model come to it."""
    found: list[str] = model.generate_until(requests, disable_tqdm=True)
    if isinstance(model, RecordedLM):
        model.get_model_info()
    return found


def hf(pair: Path, **arguments: Any) -> HFLM:
    """The same target behind `--model hf`."""
    return HFLM(str(pair / "target"), device="cpu", **arguments)


def save_pair(folder: Path, target: Any, drafter: Any, tokenizers: Any = (None, None)) -> Path:
    """A target and a drafter as a user has them, each with its tokenizer."""
    for name, model, tokenizer in zip(
        ("target", "drafter"), (target, drafter), tokenizers, strict=True
    ):
        model.save_pretrained(folder / name)
        (tokenizer or byte_tokenizer()).save_pretrained(folder / name)
    return folder


def toy_task(name: str, documents: Sequence[dict[str, Any]], **config: Any) -> ConfigurableTask:
    """A generation task over documents with `prompt` and `reference`."""
    settings: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: datasets.DatasetDict(
            {"test": datasets.Dataset.from_list(list(documents))}
        ),
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reference}}",
        "generation_kwargs": {"until": [], "max_gen_toks": 12},
        "metric_list": [{"metric": "bypass", "aggregation": "bypass"}],
    }
    return ConfigurableTask(config=settings | config)


def whole_texts() -> ConfigurableTask:
    """Four texts, each scored as a whole."""
    return toy_task(
        "whole",
        [
            {"prompt": "", "reference": text}
            for text in ("A cat.", "One dog sat.", "Two birds.", "Rain.")
        ],
        output_type="loglikelihood_rolling",
        generation_kwargs=None,
        metric_list=[{"metric": "bits_per_byte"}],
    )


def evaluate(model: Any, tasks: list[Any], **options: Any) -> dict[str, Any]:
    """lm-eval's own evaluation with this package's tasks."""
    manager = TaskManager(include_defaults=False, include_path=[task_configs_dir()])
    results = lm_eval.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options
    )
    assert results is not None
    return results


def texts(results: dict[str, Any], task: str) -> list[str]:
    """The texts of a task, in the order of its documents."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


def records_of(folder: Path) -> dict[str, Record]:
    """A run's records by request; no request may have two."""
    found = list(read_records(folder))
    by_name = {record.request_id: record for record in found}
    assert len(by_name) == len(found)
    return by_name


def assert_same_records(ours: dict[str, Record], theirs: dict[str, Record]) -> None:
    """Equal in all but times and the batch's composition; sums of floats up to rounding."""
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        for field, value in structs.asdict(record).items():
            other = structs.asdict(theirs[name])[field]
            if field in CIRCUMSTANCES:
                assert (value is None) == (other is None), (name, field)
            elif isinstance(value, float) and isinstance(other, float):
                assert math.isclose(value, other, rel_tol=1e-4, abs_tol=1e-4), (name, field)
            elif field == "overlap_per_position" and value is not None:
                assert other is not None, (name, field)
                near = (math.isclose(a, b, abs_tol=2e-3) for a, b in zip(value, other, strict=True))
                assert all(near), (name, field)
            else:
                assert value == other, (name, field)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, to see that nothing was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def run_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))
