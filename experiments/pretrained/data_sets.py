"""What the pretrained models are asked: which tasks, languages and settings make a data set.

The demo suite and the Declaration are decoded by tasks of this experiment's own, without the
scoring that the demo's own tasks do: references are read by all drafters together, in replays.
Of XQuAD, whose questions share paragraphs, each document is another paragraph: the first question
of each of those that are shortest in English, so that documents are independent and prompts short.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_specfair.harness.paths import task_configs_dir

DEMO = ["ar", "bn", "de", "el", "en", "es", "hi", "ja", "km", "ru", "th", "zh"]
MGSM = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"]
XQUAD = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]
DECLARATION = DEMO


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Tasks that are decoded in one run.

    Attributes:
        task: With the language behind it.
        tokens: The most new ones.
        sampling: As lm-eval's `--gen_kwargs`.
        short_paragraphs: Whether the shortest paragraphs are its documents.
    """

    task: str
    languages: list[str]
    tokens: int = 48
    sampling: tuple[str, ...] = ()
    documents: int = 16
    own: bool = field(default=False)  # a task of this experiment
    short_paragraphs: bool = False


SAMPLED = ("do_sample=True", "temperature=0.7", "top_p=0.9")
DATA_SETS = {
    "demo": DataSet(task="pretrained_demo", languages=DEMO, own=True),
    "mgsm": DataSet(task="mgsm_multi", languages=MGSM),
    "demo-sampled": DataSet(task="pretrained_demo", languages=DEMO, own=True, sampling=SAMPLED),
    "xquad": DataSet(task="xquad_multi", languages=XQUAD, tokens=40, short_paragraphs=True),
    "declaration": DataSet(task="pretrained_declaration", languages=DECLARATION, own=True),
}
_TASK = """\
task: {task}_{language}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{reference}}}}"
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: 48
metric_list:
  - metric: bypass
metadata:
  version: 1.0
  language: {language}
"""


def demo_rows(language: str) -> Iterator[dict[str, str]]:
    path = task_configs_dir() / "specfair_demo" / "documents" / f"{language}.jsonl"
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        yield {"id": row["id"], "prompt": row["prompt"], "reference": " " + row["reference"]}


def declaration_rows(file: Path, language: str) -> Iterator[dict[str, str]]:
    """Articles, cut behind a quarter, where a word ends nearby if there are spaces."""
    for line in file.read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["lang"] != language:
            continue
        text = row["text"]
        quarter = -(-len(text) // 4)
        space = text.find(" ", quarter)
        place = space if 0 <= space < quarter + 20 else quarter
        yield {"id": str(row["article"]), "prompt": text[:place], "reference": text[place:]}


def references(
    name: str, file: Path | None, languages: list[str]
) -> dict[str, list[dict[str, str]]]:
    """The demo's rows by language, or the Declaration's, its shortest articles first."""
    if name == "pretrained_demo":
        return {language: list(demo_rows(language)) for language in languages}
    if file is None:
        sys.exit("the Declaration's data set needs --declaration, its articles as JSON Lines")
    english = [len(row["prompt"] + row["reference"]) for row in declaration_rows(file, "en")]
    shortest = sorted(range(len(english)), key=english.__getitem__)
    rows = {language: list(declaration_rows(file, language)) for language in languages}
    return {language: [own[place] for place in shortest] for language, own in rows.items()}


def write_tasks(data_set: DataSet, file: Path | None, folder: Path) -> None:
    """A task for each language, and its documents: prompts and references."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, rows in references(data_set.task, file, data_set.languages).items():
        documents = folder / f"{data_set.task}_{language}.jsonl"
        documents.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        task = _TASK.format(task=data_set.task, language=language, file=documents.absolute())
        documents.with_suffix(".yaml").write_text(task, "utf-8")


def write_references(data_set: DataSet, file: Path | None, path: Path, number: int) -> None:
    """Prompts and references as texts to replay (`specfair replay --references`)."""
    lines = []
    for language, rows in references(data_set.task, file, data_set.languages).items():
        for place, row in enumerate(rows[:number]):
            line = {
                "id": f"{data_set.task}_{language}/{place}",
                "task": f"{data_set.task}_{language}",
                "doc_id": place,
                "language": language,
                "prompt": row["prompt"],
                "response": row["reference"],
            }
            lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines), "utf-8")


def short_paragraphs(english: list[dict[str, Any]], number: int) -> list[int]:
    """Places of the first question of each of the shortest paragraphs, the shortest first."""
    firsts = [
        place
        for place, row in enumerate(english)
        if place == 0 or row["context"] != english[place - 1]["context"]
    ]
    return sorted(firsts, key=lambda place: len(english[place]["context"]))[:number]


def write_short_mirror(data: Path, languages: list[str], number: int, mirror: Path) -> None:
    """A mirror of XQuAD with the same questions in each language (`short_paragraphs`)."""

    def rows_of(language: str) -> list[dict[str, Any]]:
        path = data / "google/xquad" / f"xquad.{language}" / "validation.jsonl"
        if not path.exists():
            sys.exit(f"XQuAD needs {path}, as task_configs/README.md describes it")
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]

    english = rows_of("en")
    places = short_paragraphs(english, number)
    for language in languages:
        rows = rows_of(language)
        if [row["id"] for row in rows] != [row["id"] for row in english]:
            sys.exit(f"XQuAD in {language} has not the questions of English, or not in its order")
        path = mirror / "google/xquad" / f"xquad.{language}" / "validation.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(rows[place]) + "\n" for place in places), "utf-8")
