"""A local mirror with rows of the data sets' true shapes, written for the tests.

The texts are the project's own (the demo suite's passages) or a language's name for itself; types,
columns and label values are the hub's. Nothing here imports what the suites score with.
"""

import datetime
import functools
import json
import re
from pathlib import Path
from typing import Any

import datasets
import langcodes
import yaml

from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.suites.suite_sources import SOURCES

Row = dict[str, Any]

datasets.disable_progress_bars()  # one a file

DEMO = task_configs_dir() / "specfair_demo" / "documents"
TYDIQA_NAMES = {
    **{"ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian"},
    **{"ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu"},
}


class _Loader(yaml.CSafeLoader):
    """Reads the suites' YAMLs; functions stay names."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@functools.cache
def load(path: Path) -> dict[str, Any]:
    """A task's or a group's YAML, without what it includes."""
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)


@functools.cache
def task_files() -> dict[str, dict[str, Any]]:
    """Every task of the suites: name -> its YAML with what it includes."""
    found = {}
    for path in sorted(task_configs_dir().glob("*/*.yaml")):
        content = load(path)
        if "group" in content or path.parent.name in ("specfair_demo", "domains_multi"):
            continue
        found[content["task"]] = {**load(path.parent / content["include"]), **content}
    return found


@functools.cache
def passages(tag: str) -> list[str]:
    """Two passages in a language, or its name for itself where the project has no text in it."""
    file = DEMO / f"{tag.split('-')[0]}.jsonl"
    if not file.is_file():
        name = langcodes.Language.get(tag).autonym()
        return [f"{name} 1.", f"{name} 2."]
    lines = file.read_text(encoding="utf-8").splitlines()[:2]
    return [json.loads(line)["prompt"] for line in lines]


def rows(dataset: str, config: str, tag: str, count: int = 3) -> list[Row]:
    """Rows of a data set's true shape in one language; their numbers differ."""
    make = {
        "facebook/xnli": _inference,
        "masakhane/afrixnli": _inference,
        "juletxara/mgsm": _word_problem,
        "masakhane/afrimgsm": _word_problem,
        "google/xquad": _squad,
        "facebook/mlqa": _squad,
        "google-research-datasets/tydiqa": _squad,
        "facebook/belebele": _belebele,
        "CohereLabs/Global-MMLU-Lite": _global_mmlu,
        "csebuetnlp/xlsum": _xlsum,
        "openlanguagedata/flores_plus": _flores,
    }[dataset]
    return [make(tag, config, i) for i in range(count)]


def _inference(tag: str, _config: str, i: int) -> Row:
    first, second = passages(tag)
    return {"premise": f"{first} ({i})", "hypothesis": second, "label": i % 3}


def _word_problem(tag: str, _config: str, i: int) -> Row:
    question = f"{passages(tag)[0]} {i}?"
    return {
        "question": question,
        "answer": None,
        "answer_number": (18, 2125, 70000, -5)[i % 4],
        "equation_solution": None,
    }


def _squad(tag: str, config: str, i: int) -> Row:
    context = f"{passages(tag)[0]} ({i // 2})"  # two questions a paragraph
    words = context.split()
    # Somewhere in the middle; in a language without spaces, a stretch of characters.
    answer = " ".join(words[1:3]) if len(words) > 3 else context[2:8]
    found = {"text": [answer], "answer_start": [context.index(answer)]}
    name = f"{TYDIQA_NAMES.get(tag, tag)}--{i}"
    row = {"id": name, "context": context, "question": f"{i}?", "answers": found}
    return {"title": "t", **row} if config == "secondary_task" else row


def _belebele(tag: str, config: str, i: int) -> Row:
    first, second = passages(tag)
    return {
        "link": "https://example.org",
        "question_number": i,
        "flores_passage": f"{first} ({i // 2})",  # two questions a passage
        "question": f"{second} {i}?",
        **{f"mc_answer{k}": f"{second[:12]} {k}" for k in (1, 2, 3, 4)},
        "correct_answer_num": str(i % 4 + 1),
        "dialect": config,
        "ds": datetime.datetime(2023, 5, 3),
    }


def _global_mmlu(tag: str, _config: str, i: int) -> Row:
    first, second = passages(tag)
    return {
        "sample_id": f"anatomy/test/{i}",
        "subject": "anatomy",
        "subject_category": "STEM",
        "question": f"{first} {i}?",
        **{f"option_{k}": f"{second[:12]} {k}" for k in "abcd"},
        "answer": "ABCD"[i % 4],
        **dict.fromkeys(("required_knowledge", "time_sensitive", "reference", "culture"), ""),
        **dict.fromkeys(("region", "country", "cultural_sensitivity_label"), ""),
        "is_annotated": False,
    }


def _xlsum(tag: str, _config: str, i: int) -> Row:
    first, second = passages(tag)
    text = {"title": first[:20], "summary": f"{second} {i}", "text": f"{first} {second} {i}."}
    return {"id": str(i), "url": "https://example.org", **text}


def _flores(tag: str, config: str, i: int) -> Row:
    language, script = config.split("_")[:2]
    empty = ("glottocode", "variant", "url", "domain", "topic", "has_image", "has_hyperlink")
    return {
        "id": i,
        "iso_639_3": language,
        "iso_15924": script,
        "text": f"{passages(tag)[i % 2]} {i}",
        **dict.fromkeys((*empty, "last_updated", "split"), "x"),
    }


def features(dataset: str) -> datasets.Features:
    """A data set's columns with their types, as `SOURCES` writes them."""

    def of(text: str) -> Any:
        if labels := re.fullmatch(r"class\((.*)\)", text):
            return datasets.ClassLabel(names=labels[1].split(", "))
        if fields := re.fullmatch(r"\{(.*)\}", text):
            return {name: of(kind) for name, kind in re.findall(r"(\w+): ([^,]+)", fields[1])}
        if items := re.fullmatch(r"list\[(.*)\]", text):
            return datasets.List(of(items[1]))
        return datasets.Value(text)

    return datasets.Features({name: of(kind) for name, kind in SOURCES[dataset].columns.items()})


def write_parquet(folder: Path, dataset: str, config: str, split: str, content: list[Row]) -> Path:
    """One split with the hub's own types."""
    path = folder / dataset / config / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(content, features=features(dataset)).to_parquet(path)
    return path


def write(folder: Path, dataset: str, config: str, split: str, content: list[Row]) -> Path:
    """One split, as JSON Lines."""
    path = folder / dataset / config / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in content]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_mirror(folder: Path, *names: str, count: int = 3) -> Path:
    """All that the named tasks read (by the start of their names), in every language of theirs."""
    tydiqa: list[Row] = []
    done = set()
    for task, content in task_files().items():
        if names and not task.startswith(names):
            continue
        dataset, config, split = (
            content["dataset_path"],
            content["dataset_name"],
            content["test_split"],
        )
        tag = content["metadata"].get("other_language") or content["metadata"]["language"]
        for part, language in (
            (config, tag),
            (content.get("dataset_kwargs", {}).get("pair_with"), "en"),
        ):
            if part is None or (dataset, part, language) in done:
                continue
            done.add((dataset, part, language))
            made = rows(dataset, part, language, count)
            if part == "secondary_task":  # the only data set with all languages in one split
                tydiqa += made
                made = tydiqa
            write_parquet(folder, dataset, part, split, made)
    return folder
