"""Answer quality of documents, from what lm-eval wrote beside a run (`--log_samples`).

A score is joined by what was asked: the digest of the request's arguments, which ends a record's
`request_id`. lm-eval's document numbers differ between the two with its `--samples`; they are used
only where samples do not say what was asked. A record's text must be one that the samples have.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Record
from lm_eval_specfair.records.requests_file import arguments_digest, sample_arguments
from lm_eval_specfair.text_lines import file_lines

_FILE = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[^_]*\.jsonl")
_NO_QUALITY = {"bypass"}
_OTHER_RUN = "expected the samples of this very run; name the right folder, or remove the old files"
_DIGEST = re.compile(r"[0-9a-f]{8}")

Document = tuple[str, int]
Asked = tuple[str, str | int]


@dataclass(slots=True)
class Sample:
    """Of one request, or of several that ask the same: scores by document number, and texts."""

    scores: dict[int, float] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Quality:
    """What the samples say.

    Scores are by task and the records' document number, and complete once all records are joined;
    samples by task and the digest of what was asked, or the document's number.
    """

    scores: dict[Document, float] = field(default_factory=dict)
    samples: dict[Asked, Sample] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    num_checked: int = 0
    unjoined: set[str] = field(default_factory=set)

    def join(self, record: Record) -> None:
        """Take a document's score from the sample that asks the same; its text must agree."""
        digest = record.request_id.rsplit("/", 1)[-1]
        sample = self.samples.get((record.task, digest)) if _DIGEST.fullmatch(digest) else None
        sample = sample or self.samples.get((record.task, record.doc_id))
        if sample is None:
            if record.task in self.metrics:
                self.unjoined.add(record.task)
            return
        if sample.texts and record.generated_text is not None:
            if record.generated_text not in sample.texts:
                raise ConfigError(
                    f"lm-eval's samples have another text for document {record.doc_id} of "
                    f"{record.task} than the records: {_OTHER_RUN}"
                )
            self.num_checked += 1
        if sample.scores:
            score = sum(sample.scores.values()) / len(sample.scores)
            self.scores[record.task, record.doc_id] = score

    def refuse_strangers(self) -> None:
        """Raise ConfigError if samples were joined to no record of a task that has records."""
        strange = sorted(self.unjoined - {task for task, _ in self.scores})
        if strange:
            raise ConfigError(
                f"lm-eval's samples of {strange[0]} ask nothing that the records were asked: "
                f"{_OTHER_RUN}"
            )


def find_samples(run_dirs: Sequence[Path], given: Path | None) -> list[Path]:
    """Files of samples: in the folder or file that the user names, else anywhere below the runs.

    Raises:
        ConfigError: If the user named what holds none.
    """
    folders = run_dirs if given is None else [given]
    if given is not None and given.is_file():
        files = [given]
    else:
        files = sorted(path for each in folders for path in each.rglob("samples_*.jsonl"))
    files = [path for path in files if _FILE.fullmatch(path.name)]
    if given is not None and not files:
        raise ConfigError(
            f"{given} holds no samples_TASK_TIME.jsonl: expected what lm-eval writes with "
            "--log_samples --output_path"
        )
    return files


def read_quality(files: Sequence[Path], metric: str | None = None) -> Quality:
    """Scores from lm-eval's samples; of several files of one task, the last by name (its time).

    Args:
        files: Files of samples.
        metric: The metric, with a filter after a comma where tasks have several; by default the
            first of each task that is a number from 0 to 1, under the task's first filter.

    Raises:
        ConfigError: If a file holds no samples, or none has the metric.
    """
    latest = {match["task"]: path for path in files if (match := _FILE.fullmatch(path.name))}
    quality = Quality()
    for task, path in sorted(latest.items()):
        for number, line in _lines(path):
            doc_id = line.get("doc_id")
            if isinstance(doc_id, bool) or not isinstance(doc_id, int):
                raise ConfigError(
                    f"{path}:{number}: doc_id must be a whole number, got {doc_id!r:.60}"
                )
            texts = [text for each in _list(line.get("resps")) for text in _list(each)]
            chosen = quality.metrics.get(task) or _choose(line, metric)
            name, _, filtered = (chosen or "").partition(",")
            score = _score(line.get(name)) if filtered == str(line.get("filter")) else None
            if chosen is not None:
                quality.metrics[task] = chosen
            asked_by: list[str | int] = [
                arguments_digest(each) for each in sample_arguments(line.get("arguments"))
            ] or [doc_id]
            for asked in asked_by:
                sample = quality.samples.setdefault((task, asked), Sample())
                sample.texts.update(text for text in texts if isinstance(text, str))
                if score is not None:
                    sample.scores[doc_id] = score
    if metric is not None and not any(sample.scores for sample in quality.samples.values()):
        raise ConfigError(f"no sample has the metric {metric!r} as one number for each document")
    return quality


def _choose(line: Mapping[str, Any], metric: str | None) -> str | None:
    """The metric that is read, with its filter; None where this line has none."""
    own = str(line.get("filter"))
    if metric is not None:
        name, _, wanted = metric.partition(",")
        fits = _score(line.get(name)) is not None and wanted in ("", own)
        return f"{name},{own}" if fits else None
    for name in _list(line.get("metrics")):
        score = _score(line.get(name)) if name not in _NO_QUALITY else None
        if score is not None and 0 <= score <= 1:
            return f"{name},{own}"
    return None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for number, text in enumerate(file_lines(path), start=1):
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("not an object")
            yield number, line
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected lm-eval's samples, JSON Lines ({error})") from None


def _score(value: object) -> float | None:
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
