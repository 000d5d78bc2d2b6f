"""Where rows come from: a mirror, else the hub; and what is said where neither has them.

    python -m pytest tests/harness/test_suites_mirror.py

The hub is out of reach in tests: what is checked of it is what `datasets` is asked for.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from lm_eval.tasks import TaskManager

from lm_eval_specfair import cli
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.suites import mirror as data
from lm_eval_specfair.harness.suites.catalogue import needs
from lm_eval_specfair.harness.suites.column_types import type_of
from lm_eval_specfair.harness.suites.mirror import load_split
from lm_eval_specfair.harness.suites.suite_sources import SOURCES
from lm_eval_specfair.harness.suites.task import chosen, paired

from support import suite_rows

XNLI = "facebook/xnli"


@pytest.fixture(autouse=True)
def _no_mirror_and_no_memory(monkeypatch):
    monkeypatch.delenv("SPECFAIR_DATA_DIR", raising=False)
    data.fetch_split.cache_clear()


def task(name: str, **metadata):
    manager = TaskManager(
        include_path=str(task_configs_dir()), include_defaults=False, metadata=metadata
    )
    return manager.load([name])["tasks"][name]


def as_parquet(rows: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(path)


def as_lines(rows: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (as_parquet, ["test.parquet"]),
        (as_lines, ["test.jsonl"]),
        (as_parquet, ["test/0000.parquet", "test/0001.parquet"]),  # the hub's conversions
        (as_parquet, ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]),
        (as_lines, ["test/a.jsonl", "test/b.jsonl"]),
    ],
)
def test_each_layout_of_a_mirror_gives_the_same_rows(write, names, tmp_path):
    rows = suite_rows.rows(XNLI, "sw", "sw", 4)
    share = len(rows) // len(names)
    for i, name in enumerate(names):
        write(rows[i * share : (i + 1) * share], tmp_path / XNLI / "sw" / name)

    assert load_split(XNLI, "sw", "test", mirror=tmp_path).to_list() == rows


def test_a_changed_file_is_read_anew_and_class_labels_stay_numbers(tmp_path):
    import os

    path = tmp_path / XNLI / "sw" / "test.parquet"
    rows = suite_rows.rows(XNLI, "sw", "sw", 3)
    labels = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    path.parent.mkdir(parents=True)
    for number, kept in enumerate((rows, rows[:2])):
        made = datasets.Dataset.from_list(kept).cast_column("label", labels)
        made.to_parquet(path)
        os.utime(path, ns=(number, number))
        found = load_split(XNLI, "sw", "test", mirror=tmp_path)
        assert found.to_list() == kept
        assert found.features["label"].names == labels.names


def test_the_mirror_is_named_by_metadata_or_the_environment_and_metadata_wins(
    tmp_path, monkeypatch
):
    for folder, count in (("a", 1), ("b", 2)):
        suite_rows.write(
            tmp_path / folder, XNLI, "sw", "test", suite_rows.rows(XNLI, "sw", "sw", count)
        )
    monkeypatch.setenv("SPECFAIR_DATA_DIR", str(tmp_path / "a"))

    assert len(task("xnli_multi_sw").eval_docs) == 1
    assert len(task("xnli_multi_sw", data_dir=str(tmp_path / "b")).eval_docs) == 2
    # lm-eval hands every model argument to tasks as metadata.
    assert len(task("xnli_multi_sw", revision="main", split="x", dataset="y").eval_docs) == 1


@pytest.mark.parametrize("mirror", [None, "mirror"])
def test_missing_data_is_one_line_with_data_set_path_and_verb(mirror, tmp_path, monkeypatch):
    if mirror:
        monkeypatch.setenv("SPECFAIR_DATA_DIR", str(tmp_path / mirror))

    with pytest.raises(ConfigError) as caught:
        task("mgsm_multi_te")

    message = str(caught.value)
    assert "\n" not in message
    assert "juletxara/mgsm (te, test)" in message
    assert "specfair fetch-data mgsm_multi -o DIR" in message
    assert "SPECFAIR_DATA_DIR" in message
    if mirror:
        assert str(tmp_path / "mirror" / "juletxara/mgsm" / "te" / "test.parquet") in message
    else:
        assert "no mirror is set" in message


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(tmp_path):
    def last_line(*command: str) -> tuple[int, str, str]:
        arguments = ["run", "--model", "specfair", "--tasks", "xnli_multi_sw"]
        done = subprocess.run(
            [sys.executable, *command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        return done.returncode, done.stderr, done.stderr.strip().splitlines()[-1]

    said = "the data set facebook/xnli (sw, test) is needed: no mirror is set"
    status, errors, last = last_line("-m", "lm_eval_specfair")
    assert status == 2
    assert last.startswith(f"specfair: error: {said}")
    assert "Traceback" not in errors
    install = "from lm_eval_specfair.harness import hook; hook.install(); "
    plain = f"{install}from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    status, errors, last = last_line("-c", plain)
    assert status == 1
    assert last.startswith(f"lm_eval: error: {said}")
    assert "Traceback" not in errors
    assert "specfair fetch-data xnli_multi -o DIR" in last


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"premise": "a", "hypothesis": "b"}\n', "without label"),
        ("", "without a row"),
        ("{broken\n", "could not read them"),
    ],
)
def test_a_file_that_is_not_the_data_set_is_refused(content, said, tmp_path):
    path = tmp_path / XNLI / "sw" / "test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(content)

    with pytest.raises(ConfigError, match=said) as caught:
        load_split(XNLI, "sw", "test", mirror=tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Task -> column -> values of another kind than the data set's.
WRONG_VALUES = {
    "mgsm_multi_sw": {
        "answer_number": ["2,125", 18.5, True, None, 2**70, [18]],
        "question": [None, 7],
        "answer": [3],
    },
    "xnli_multi_sw": {"label": ["entailment", -1, 3, None, 1.0], "premise": [1, None]},
    "afrixnli_multi_swa": {"label": ["0"]},
    "global_mmlu_multi_sw": {"answer": [0, "E", "a", None], "option_c": [5]},
    "belebele_multi_swh_Latn": {"correct_answer_num": [1, "0", "5", None]},
    "xquad_multi_ar": {"answers": [None, "text", {"text": []}, {"text": "x"}, {"text": [1]}, {}]},
    "tydiqa_multi_sw": {"id": [3], "context": [[]]},
    "xlsum_multi_swahili": {"summary": [None], "text": [{}]},
}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        (name, column, value)
        for name, columns in WRONG_VALUES.items()
        for column, values in columns.items()
        for value in values
    ],
)
def test_a_value_of_another_kind_is_one_line_with_column_and_row(
    name, column, value, form, tmp_path
):
    content = suite_rows.task_files()[name]
    dataset, config, split = (content[k] for k in ("dataset_path", "dataset_name", "test_split"))
    rows = suite_rows.rows(dataset, config, content["metadata"]["language"], 3)
    rows[1] = {**rows[1], column: value}
    path = suite_rows.write(tmp_path, dataset, config, split, rows)
    if form == "parquet":
        try:  # all rows alike: a column has one type
            as_parquet([{**row, column: value} for row in rows], path.with_suffix(".parquet"))
        except (ValueError, OverflowError, NotImplementedError):
            return  # no column can hold it
        path.unlink()
        path = path.with_suffix(".parquet")

    with pytest.raises(ConfigError) as caught:
        task(name, data_dir=str(tmp_path))
    said = str(caught.value)
    row = 1 if form == "parquet" else 2
    assert said.startswith(f"{path}, column {column}, row {row}: expected ")
    assert "\n" not in said
    if value is not None and form == "jsonl":
        assert json.dumps(value, ensure_ascii=False)[:60] in said


def test_a_row_that_is_no_object_and_a_row_without_a_column_are_named(tmp_path):
    path = suite_rows.write(tmp_path, XNLI, "sw", "test", suite_rows.rows(XNLI, "sw", "sw", 2))
    good = path.read_text("utf-8")
    for line, said in (("[1]", "line 3 is no object"), ('{"premise": "a"}', "hypothesis, row 3")):
        path.write_text(f"{good}{line}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            load_split(XNLI, "sw", "test", mirror=tmp_path)


def test_lines_end_at_a_line_feed_and_a_byte_order_mark_is_skipped(tmp_path):
    rows = suite_rows.rows(XNLI, "sw", "sw", 3)
    for i, character in enumerate("\u2028\u2029\x85"):
        rows[i]["premise"] += f"{character}and more"
    path = suite_rows.write(tmp_path, XNLI, "sw", "test", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    assert load_split(XNLI, "sw", "test", mirror=tmp_path).to_list() == rows


def test_a_column_that_only_later_rows_have_is_kept(tmp_path):
    rows = suite_rows.rows(XNLI, "sw", "sw", 2)
    suite_rows.write(tmp_path, XNLI, "sw", "test", [rows[0], {**rows[1], "domain": "news"}])

    assert load_split(XNLI, "sw", "test", mirror=tmp_path)["domain"][:] == [None, "news"]


def test_few_shot_examples_come_from_their_split_and_never_from_the_test_split(tmp_path):
    name, dataset = "mgsm_multi_sw", "juletxara/mgsm"
    suite_rows.write(tmp_path, dataset, "sw", "test", suite_rows.rows(dataset, "sw", "sw"))
    without = task(name, data_dir=str(tmp_path))
    assert "Swali: " in without.fewshot_context(without.eval_docs[0], 0)
    with pytest.raises(ConfigError, match=r"num_fewshot is 2.*sw, train.*fetch-data"):
        without.fewshot_context(without.eval_docs[0], 2)

    # As MGSM's train split has them: question and answer bring their headings.
    row = {"answer_number": 11, "equation_solution": "6 + 5 = 11."}
    solution = "Jibu la Hatua kwa Hatua: Sita na tano ni kumi na moja. Jibu ni 11."
    examples = [{"question": f"Swali: Mpira {i}?", "answer": solution, **row} for i in (1, 2)]
    suite_rows.write(tmp_path, dataset, "sw", "train", examples)
    complete = task(name, data_dir=str(tmp_path))
    prompt = complete.fewshot_context(complete.eval_docs[0], 2)
    shown = "Jibu la Hatua kwa Hatua: Sita na tano ni kumi na moja. Jibu ni 11.\n\n"
    assert prompt.count(shown) == 2
    assert prompt.count("Swali: Mpira") == 2
    assert prompt.count("Swali: Swali:") == 0
    assert prompt.endswith("Jibu la Hatua kwa Hatua:")


def test_an_example_drops_its_heading_with_a_full_width_colon_too(tmp_path):
    name, dataset = "mgsm_multi_zh", "juletxara/mgsm"
    suite_rows.write(tmp_path, dataset, "zh", "test", suite_rows.rows(dataset, "zh", "zh"))
    row = {"answer_number": 11, "equation_solution": "6 + 5 = 11."}
    solution = "逐步解答：六加五: 十一。答案是 11。"
    examples = [{"question": f"问题：罗杰有 {i} 个球？", "answer": solution, **row} for i in (1, 2)]
    suite_rows.write(tmp_path, dataset, "zh", "train", examples)

    built = task(name, data_dir=str(tmp_path))
    prompt = built.fewshot_context(built.eval_docs[0], 2)
    assert prompt.count("逐步解答: 六加五: 十一。答案是 11。\n\n") == 2
    assert "逐步解答：" not in prompt


# ------------------------------------------------------------------ choosing rows


def test_a_selection_is_spread_evenly_and_the_same_in_every_language():
    rows = datasets.Dataset.from_list([{"id": str(i)} for i in range(900)])

    assert [int(i) for i in chosen(rows, {"documents": 30})["id"]] == [*range(0, 900, 30)]
    assert len(chosen(rows.select(range(7)), {"documents": 30})) == 7
    core = [t for n, t in suite_rows.task_files().items() if n.startswith("specfair_core")]
    assert core
    assert all(each["dataset_kwargs"]["documents"] == 30 for each in core)


def test_tydiqas_languages_are_told_apart_by_their_ids():
    rows = datasets.Dataset.from_list(
        [{"id": f"{n}-{i}"} for i in (1, 2) for n in ("korean", "swahili")]
    )

    assert list(chosen(rows, {"id_prefix": "swahili-"})["id"]) == ["swahili-1", "swahili-2"]
    with pytest.raises(ConfigError, match="thai-"):
        chosen(rows, {"id_prefix": "thai-"})


def test_sentences_are_joined_by_id_and_not_by_place():
    own = datasets.Dataset.from_list([{"id": i, "text": f"sw{i}"} for i in (2, 1)])
    english = datasets.Dataset.from_list([{"id": i, "text": f"en{i}"} for i in (1, 2, 3)])

    into = paired(own, english, into="language").to_list()
    assert [(row["source"], row["target"]) for row in into] == [("en2", "sw2"), ("en1", "sw1")]
    back = paired(own, english, into="english").to_list()
    assert [(row["source"], row["target"]) for row in back] == [("sw2", "en2"), ("sw1", "en1")]
    with pytest.raises(ConfigError, match="1 have none"):
        paired(own, english.select([0]), into="language")


# ------------------------------------------------------------------ the hub, and fetching from it


@pytest.fixture
def hub(monkeypatch):
    """Stands for the hub behind `datasets.load_dataset`, with what was asked for."""
    asked = []

    def load_dataset(path, name=None, *, split, data_files=None):
        asked.append((path, name, data_files, split))
        if path == "parquet":
            dataset = data_files[split].removeprefix("hf://datasets/").split("@")[0]
            config = data_files[split].split("/")[-3]
        else:
            dataset, config = path, name
        if config in ("te", "validation"):
            raise FileNotFoundError(f"no {config}\nhere")
        tag = config if len(config) == 2 else "sw"
        return datasets.Dataset.from_list(suite_rows.rows(dataset, config, tag))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return asked


def test_the_hub_is_asked_for_its_parquet_of_one_split(hub):
    load_split("juletxara/mgsm", "sw", "test", mirror=None)

    file = "hf://datasets/juletxara/mgsm@refs/convert/parquet/sw/test/*.parquet"
    assert hub == [("parquet", None, {"test": file}, "test")]


def test_a_gated_data_set_is_read_from_its_own_branch_first(hub):
    load_split("openlanguagedata/flores_plus", "swh_Latn", "devtest", mirror=None)

    assert hub == [("openlanguagedata/flores_plus", "swh_Latn", None, "devtest")]


def test_where_there_is_no_conversion_the_data_set_itself_is_asked(hub):
    with pytest.raises(ConfigError, match="no te here"):
        load_split("juletxara/mgsm", "te", "test", mirror=None)

    assert [path for path, *_ in hub] == ["parquet", "juletxara/mgsm"]


def test_offline_only_the_cache_of_datasets_is_asked(hub, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    load_split("juletxara/mgsm", "sw", "test", mirror=None)

    assert [path for path, *_ in hub] == ["juletxara/mgsm"]


def test_fetch_data_fills_a_mirror_that_the_suite_then_runs_from(hub, tmp_path, capsys):
    assert cli.main(["fetch-data", "xquad_multi", "-o", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "data")
    assert len(hub) == 12
    found = {
        str(path.relative_to(tmp_path / "data")) for path in tmp_path.rglob("*.*") if path.is_file()
    }
    languages = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]
    assert found == {f"google/xquad/xquad.{each}/validation.parquet" for each in languages}

    data.fetch_split.cache_clear()
    assert cli.main(["fetch-data", "xquad_multi", "-o", str(tmp_path / "data")]) == 0
    assert len(hub) == 12  # what is there is not fetched again
    data.fetch_split.cache_clear()
    assert len(task("xquad_multi_th", data_dir=str(tmp_path / "data")).eval_docs) == 3
    assert len(hub) == 12


def test_the_hub_is_not_asked_for_examples_where_the_documents_are_the_mirrors(hub, tmp_path):
    rows = suite_rows.rows("juletxara/mgsm", "sw", "sw")
    suite_rows.write(tmp_path, "juletxara/mgsm", "sw", "test", rows)

    task("mgsm_multi_sw", data_dir=str(tmp_path))
    assert hub == []
    task("mgsm_multi_sw")
    assert [split for *_, split in hub] == ["test", "train"]


def test_fetch_data_keeps_what_came_and_names_what_did_not(hub, tmp_path, capsys):
    assert cli.main(["fetch-data", "mgsm_multi", "-o", str(tmp_path), "--no-examples"]) == 2

    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(
        "specfair: error: expected 11 splits from the hub, juletxara/mgsm (te,"
    )
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 10


@pytest.mark.parametrize("suite", ["xnli_mutli", "specfair_demo", "specfair_demo_sw", "hellaswag"])
def test_fetch_data_refuses_what_it_cannot_fetch(suite, tmp_path, capsys):
    assert cli.main(["fetch-data", suite, "-o", str(tmp_path)]) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "xnli_multi" in said
    assert not list(tmp_path.iterdir())


def test_needs_are_the_evaluated_splits_of_a_suites_languages_alone():
    found = needs("specfair_core")

    kept = [need for need in found if not need.is_optional]
    assert {need.dataset for need in kept} == {
        "facebook/belebele",
        "csebuetnlp/xlsum",
        "openlanguagedata/flores_plus",
    }
    assert len(kept) == 12 + 12 + 13  # FLORES: English, its eleven partners, and French


@pytest.mark.slow
def test_needs_of_lm_evals_own_tasks_are_found_in_lm_evals_own_yamls():
    domains = {need.dataset for need in needs("domains_multi")}
    assert {"openai/gsm8k", "EleutherAI/coqa", "mandarjoshi/trivia_qa"} <= domains


# ------------------------------------------------------------------ where a mirror's files are


def test_a_dry_run_names_every_file_and_column_and_fetches_nothing(hub, tmp_path, capsys):
    rows = suite_rows.rows("juletxara/mgsm", "sw", "sw")
    suite_rows.write(tmp_path, "juletxara/mgsm", "sw", "test", rows)
    arguments = ["fetch-data", "mgsm_multi", "--dry-run", "--no-examples"]
    assert cli.main([*arguments, "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "columns: question (string), answer (string or null), answer_number (int32)" in said
    files = {line.split()[0]: line for line in said.splitlines() if ".parquet" in line}
    assert files.keys() == {
        f"{tmp_path}/juletxara/mgsm/{each}/test.parquet"
        for each in ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
    }
    assert [line.endswith("there") for name, line in files.items() if "/sw/" in name] == [True]
    assert hub == []
    assert cli.main(arguments) == 0
    assert "DIR/juletxara/mgsm/bn/test.parquet" in capsys.readouterr().out
    assert cli.main(["fetch-data", "mgsm_multi"]) == 2
    assert "expected -o DIR" in capsys.readouterr().err


README = (task_configs_dir() / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dataset", SOURCES)
def test_the_readme_says_where_the_files_of_a_data_set_are(dataset):
    source = SOURCES[dataset]
    (line,) = [line for line in README.splitlines() if f"| `{dataset}` |" in line]
    assert all(f"`{column}`: {type_of(source, column)}" in line for column in source.read)
    assert all(f"`{split}`" in line for split in source.splits)


def test_the_readmes_recipe_fills_a_mirror_from_the_public_repositories(tmp_path, monkeypatch):
    """Files in the repositories' own formats: tab-separated lines and SQuAD's JSON."""
    mgsm, xquad = tmp_path / "url-nlp" / "mgsm", tmp_path / "xquad"
    mgsm.mkdir(parents=True)
    xquad.mkdir()
    (mgsm / "mgsm_sw.tsv").write_text("Swali la 1?\t18\nSwali la 2?\t2,125\n", encoding="utf-8")
    examples = {"sw": {"1": {"q": "Swali: Mpira?", "a": "Jibu la Hatua kwa Hatua: Jibu ni 11."}}}
    (mgsm / "exemplars.py").write_text(
        f"EXEMPLAR_NUMBER_ANSWERS = [11]\nMGSM_EXEMPLARS = {examples!r}\n", encoding="utf-8"
    )
    asked = [{"id": "5a", "question": "Wann?", "answers": [{"text": "1308", "answer_start": 3}]}]
    article = {"paragraphs": [{"context": "Im 1308.\u2028Neu.", "qas": asked}]}
    (xquad / "xquad.de.json").write_text(json.dumps({"data": [article]}), encoding="utf-8")

    (recipe,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", recipe], cwd=tmp_path, check=True)
    monkeypatch.setenv("SPECFAIR_DATA_DIR", str(tmp_path / "data"))
    built = task("mgsm_multi_sw")
    assert [doc["answer_number"] for doc in built.eval_docs] == [18, 2125]
    assert "Jibu ni 11." in built.fewshot_context(built.eval_docs[0], 1)
    (doc,) = task("xquad_multi_de").eval_docs
    assert doc["answers"] == {"text": ["1308"]}
    assert doc["context"] == "Im 1308.\u2028Neu."
