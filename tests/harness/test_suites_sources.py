"""What the suites say about other people's data, against what lm-eval's own task files say.

    python -m pytest tests/harness/test_suites_sources.py

lm-eval's YAMLs of the same benchmarks are read as they are installed: data sets, configurations,
splits, prompts. Only FLORES+ is not in them.
"""

import functools
import re
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval.utils import apply_template

from lm_eval_specfair.groups import task_language
from lm_eval_specfair.groups.language_tags import language_code, standard_language, tag_script
from lm_eval_specfair.groups.languages import languages
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import language_in_name
from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.suites.suite_sources import SOURCES
from lm_eval_specfair.harness.suites.words import ANSWER_PHRASES

from support import suite_rows

LM_EVAL = Path(lm_eval.tasks.__path__[0])
TASKS = suite_rows.task_files()
# Suite -> where lm-eval has the same data, and the data set.
SAME_DATA = {
    "xnli_multi": ("xnli", "facebook/xnli"),
    "xnli_multi_cot": ("xnli", "facebook/xnli"),
    "mgsm_multi": ("mgsm/native_cot", "juletxara/mgsm"),
    "xquad_multi": ("xquad", "google/xquad"),
    "mlqa_multi": ("mlqa", "facebook/mlqa"),
    "tydiqa_multi": ("tydiqa", "google-research-datasets/tydiqa"),
    "belebele_multi": ("belebele", "facebook/belebele"),
    "global_mmlu_multi": ("global_mmlu/default", "CohereLabs/Global-MMLU-Lite"),
    "afrixnli_multi": ("afrixnli/direct/prompt_1", "masakhane/afrixnli"),
    "afrixnli_multi_cot": ("afrixnli/direct/prompt_1", "masakhane/afrixnli"),
    "afrimgsm_multi": ("afrimgsm/direct/prompt_1", "masakhane/afrimgsm"),
}


def language_of_task(task, config):
    conclusion = task_language.language_of_task(TaskFacts(task, {}, config))
    return conclusion and conclusion[0]


def of_suite(suite: str) -> dict[str, dict[str, Any]]:
    return {name: task for name, task in TASKS.items() if task["metadata"]["suite"] == suite}


@functools.cache
def lm_evals(folder: str) -> dict[str, dict[str, Any]]:
    """The tasks of a folder of lm-eval, with what they include, by name."""
    found = {}
    for path in sorted((LM_EVAL / folder).glob("**/*.yaml")):
        content = suite_rows.load(path)
        if "include" in content and isinstance(content.get("task"), str):
            included = suite_rows.load(path.parent / content["include"])
            task = {**included, **content}
            # The organisation was renamed; lm-eval has both names, the hub leads from the old one.
            task["dataset_path"] = task["dataset_path"].replace("CohereForAI/", "CohereLabs/")
            found[content["task"]] = task
    return found


# ------------------------------------------------------------------ data sets


@pytest.mark.parametrize("suite", SAME_DATA)
def test_data_sets_configurations_and_splits_are_those_of_lm_eval(suite):
    folder, dataset = SAME_DATA[suite]
    theirs = [task for task in lm_evals(folder).values() if task["dataset_path"] == dataset]
    splits = {task.get(key) for task in theirs for key in ("test_split", "validation_split")}
    examples = {task.get(f"{key}_split") for task in theirs for key in ("fewshot", "training")}

    ours = of_suite(suite)
    configurations = {task["dataset_name"] for task in theirs}
    if suite == "mlqa_multi":  # lm-eval asks in one language about a text in another too
        configurations = {each for each in configurations if len({*each.split(".")[1:]}) == 1}
    assert {task["dataset_name"] for task in ours.values()} == configurations
    for task in ours.values():
        assert task["dataset_path"] == dataset
        # lm-eval evaluates XNLI on its validation split.
        assert task["test_split"] in (splits if not suite.startswith("xnli") else {"test"})
        known = splits | examples | ({"train"} if suite == "afrimgsm_multi" else set())
        assert task.get("fewshot_split") in known | {None}


def test_every_data_set_of_a_task_is_described_and_every_described_one_is_used():
    assert {task["dataset_path"] for task in TASKS.values()} == SOURCES.keys()


def test_labels_mean_what_lm_eval_takes_them_for():
    # lm-eval's cloze in English: Yes, Also, No for 0, 1, 2.
    (choices,) = [t["doc_to_choice"] for n, t in lm_evals("xnli").items() if n == "xnli_en"]
    assert re.findall(r"Yes|Also|No", choices) == ["Yes", "Also", "No"]
    for suite in ("xnli_multi", "xnli_multi_cot", "afrixnli_multi", "afrixnli_multi_cot"):
        code = "en" if suite.startswith("xnli") else "eng"
        task = TASKS[f"{suite}_{code}"]
        words = [apply_template(task["doc_to_target"], {"label": i}) for i in range(3)]
        assert words == ["Yes", "Maybe", "No"]
    assert suite_rows.features("facebook/xnli")["label"].names == [
        "entailment",
        "neutral",
        "contradiction",
    ]


# ------------------------------------------------------------------ prompts


def prompts(suite: str, ours: str, theirs: str) -> tuple[str, str]:
    """The same row in a prompt of ours and of lm-eval's."""
    task = TASKS[ours]
    tag = task["metadata"]["language"]
    (row,) = suite_rows.rows(task["dataset_path"], task["dataset_name"], tag, 1)
    template = lm_evals(SAME_DATA[suite][0])[theirs]["doc_to_text"]
    return apply_template(task["doc_to_text"], row), apply_template(template, row)


@pytest.mark.parametrize("name", of_suite("mgsm_multi"))
def test_mgsms_prompt_is_lm_evals_native_one_but_for_a_space_in_russian(name):
    ours, theirs = prompts("mgsm_multi", name, name.replace("_multi_", "_native_cot_"))

    assert ours == theirs.replace("Пошаговоерешение", "Пошаговое решение")


@pytest.mark.parametrize("name", [*of_suite("xquad_multi"), *of_suite("tydiqa_multi")])
def test_prompts_of_extraction_are_lm_evals_but_for_a_letter_in_arabic(name):
    suite, language = name.rsplit("_", 1)
    other = {"xquad_multi": "xquad", "tydiqa_multi": "tydiqa_goldp"}[suite]
    ours, theirs = prompts(suite, name, f"{other}_{language}")

    if name == "xquad_multi_ar":
        theirs = prompts("tydiqa_multi", name, "tydiqa_goldp_ar")[1]
    assert ours == theirs


@pytest.mark.parametrize("suite", ["belebele_multi", "global_mmlu_multi"])
def test_choices_are_shown_as_by_lm_eval_with_one_line_more(suite):
    for name, task in of_suite(suite).items():
        theirs = f"belebele_{task['dataset_name']}"
        if suite == "global_mmlu_multi":
            theirs = f"global_mmlu_{task['dataset_name']}_stem"
        ours, their = prompts(suite, name, theirs)
        asked = re.compile(r"Give the letter of the right answer, .*\.\n")
        assert asked.sub("", ours) == their
        assert len(asked.findall(ours)) == 1


def test_the_phrases_before_a_number_are_those_lm_eval_looks_for():
    for name, task in lm_evals("mgsm/native_cot").items():
        pattern = task["filter_list"][0]["filter"][0]["regex_pattern"]
        phrase = pattern.split("(")[0].strip()
        assert phrase in {*ANSWER_PHRASES[name.rsplit("_", 1)[1]], *ANSWER_PHRASES["en"]}


def test_a_row_needs_no_column_but_those_said_to_be_read():
    for name, task in TASKS.items():
        if name.startswith("specfair_core") or "flores" in name:
            continue
        source = SOURCES[task["dataset_path"]]
        assert set(source.read) <= source.columns.keys()
        tag = task["metadata"]["language"]
        (row,) = suite_rows.rows(task["dataset_path"], task["dataset_name"], tag, 1)
        bare = {column: row[column] for column in source.read}
        for key in ("doc_to_text", "doc_to_target"):  # lm-eval refuses what a row lacks
            assert apply_template(task[key], bare) == apply_template(task[key], row)


# ------------------------------------------------------------------ languages


def test_each_tasks_language_is_what_the_report_finds_by_its_name_and_configuration():
    for name, task in TASKS.items():
        said = task["metadata"]["language"]
        config = {key: task[key] for key in ("dataset_path", "dataset_name")}
        assert standard_language(said) == said
        assert language_of_task(name, {}) == language_of_task(name, config) == said, name


def test_every_other_task_of_the_project_is_found_too():
    for path in (task_configs_dir() / "specfair_demo").glob("specfair_demo_*.yaml"):
        language = suite_rows.load(path)["dataset_kwargs"]["lang"]
        assert language_of_task(path.stem, {}) == standard_language(language)
    assert language_of_task("domains_multi_coqa", {}) == "en"


def test_a_language_has_the_tag_of_lm_evals_own_tasks_on_the_same_data():
    for name, task in of_suite("belebele_multi").items():
        code = task["dataset_name"]
        assert task["metadata"]["language"] == language_of_task(f"belebele_{code}", {}), name
    twelve = {task["metadata"]["language"] for task in of_suite("specfair_core").values()}
    assert len(twelve) == 12


def test_translations_of_one_document_are_recognised():
    # Tasks that differ in their language alone have one name without it.
    for suite in ("xnli_multi", "mgsm_multi", "belebele_multi", "afrimgsm_multi"):
        assert {language_in_name(name).rest for name in of_suite(suite)} == {suite}
    into = [name for name in of_suite("flores_multi") if "_multi_eng_Latn_" in name]
    assert {language_in_name(name).rest for name in into} == {"flores_multi_eng_Latn"}


def test_the_selection_is_balanced():
    tags = {task["metadata"]["language"] for task in of_suite("specfair_core").values()}
    found = {tag: languages()[language_code(tag)] for tag in tags}

    assert len(tags) == 12
    assert len({tag_script(tag) for tag in tags}) >= 8
    assert len({each.resource_class for each in found.values()} - {"0"}) >= 3
    card = (task_configs_dir() / "specfair_core" / "README.md").read_text(encoding="utf-8")
    for tag, language in found.items():
        assert f"({tag}) | {tag_script(tag)} | {language.resource_class} |" in card


# ------------------------------------------------------------------ data cards


@pytest.mark.parametrize("dataset", SOURCES)
def test_data_cards_say_what_the_sources_say(dataset):
    (folder,) = {
        name.split("_")[0] for name, t in TASKS.items()
        if t["dataset_path"] == dataset and t["metadata"]["suite"] != "specfair_core"
    }  # fmt: skip
    where = "irokobench_multi" if folder.startswith("afri") else f"{folder}_multi"
    where = "global_mmlu_multi" if folder == "global" else where
    card = (task_configs_dir() / where / "README.md").read_text(encoding="utf-8")
    source = SOURCES[dataset]

    for said in (f"`{dataset}`", source.licence, source.citation, source.known_from):
        assert said in card
    assert ", ".join(f"`{column}`" for column in source.columns) in card
    assert ("a loading script" in card) == source.is_script
    assert ("asks for an account" in card) == source.is_gated


def test_words_of_our_own_are_said_to_be_unreviewed_by_native_speakers():
    for suite in ("xnli_multi", "irokobench_multi"):
        card = (task_configs_dir() / suite / "README.md").read_text(encoding="utf-8")
        assert "not by native speakers" in card
