"""Answer quality of documents, from what lm-eval wrote beside a run.

Records say how a text was decoded, lm-eval's samples how good it is: `--log_samples` with
`--output_path` writes `samples_TASK_TIME.jsonl`, one line a document and filter. Such files are
found anywhere below a run's folder (`--output_path RUN_DIR`), or where the user says. A document's
score is joined by task and number; its text must be one that the record has, or the files belong to
another run.
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

_FILE = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[^_]*\.jsonl")
_NO_QUALITY = {"bypass"}

Document = tuple[str, int]


@dataclass(slots=True)
class Quality:
    """What the samples say.

    Attributes:
        scores: Of documents, by task and number.
        texts: The generated texts of documents that have any.
        metrics: The metric, with its filter, that was taken for each task.
        num_checked: Texts that agreed with a record's.
    """

    scores: dict[Document, float] = field(default_factory=dict)
    texts: dict[Document, set[str]] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    num_checked: int = 0

    def check(self, record: Record) -> None:
        """Make sure that a record and the samples tell of the same text.

        Raises:
            ConfigError: If they do not.
        """
        known = self.texts.get((record.task, record.doc_id))
        if known is None or record.generated_text is None:
            return
        if record.generated_text not in known:
            raise ConfigError(
                f"lm-eval's samples have another text for document {record.doc_id} of "
                f"{record.task} than the records: expected the samples of this very run, without "
                "lm-eval's --samples; name the right folder, or remove the old files"
            )
        self.num_checked += 1


def find_samples(run_dirs: Sequence[Path], given: Path | None) -> list[Path]:
    """Files of samples: those of the folder or file that the user names, else below the runs.

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
    """Scores from lm-eval's samples.

    Args:
        files: Files of samples; of several of one task, the last by name (they end in the time).
        metric: The metric to take, with a filter behind a comma where tasks have several
            (`exact_match,flexible-extract`); by default the first of each task that is a number
            from 0 to 1, under the task's first filter.

    Raises:
        ConfigError: If a file is not such a file, or none has the metric.
    """
    latest = {match["task"]: path for path in files if (match := _FILE.fullmatch(path.name))}
    quality = Quality()
    for task, path in sorted(latest.items()):
        for number, line in _lines(path):
            document = (task, _whole(line.get("doc_id"), path, number))
            texts = {text for each in _list(line.get("resps")) for text in _list(each)}
            found = {text for text in texts if isinstance(text, str)}
            if found:
                quality.texts.setdefault(document, set()).update(found)
            chosen = quality.metrics.get(task) or _choose(line, metric)
            if chosen is None:
                continue
            quality.metrics[task] = chosen
            name, _, wanted = chosen.partition(",")
            if wanted == str(line.get("filter")) and (score := _score(line.get(name))) is not None:
                quality.scores[document] = score
    if metric is not None and not quality.scores:
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
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("not an object")
                yield number, line
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected lm-eval's samples, JSON Lines ({error})") from None


def _whole(value: object, path: Path, number: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{path}:{number}: doc_id must be a whole number, got {value!r:.60}")
    return value


def _score(value: object) -> float | None:
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
