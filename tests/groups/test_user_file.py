"""A user's own file of groups."""

import json

import pytest

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import assignments
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import read_mapping

YAML = """
tasks:
  gsm8k_de: {language: de}
  "gsm8k*": {language: en, domain: [mathematics, school]}
languages:
  sw: {community: [africa, coast]}
  no: {community: nordic}
  zh: {community: east asia}
  zh-Hant: {community: taiwan}
"""
JSON = {
    "tasks": {
        "gsm8k_de": {"language": "de"},
        "gsm8k*": {"language": "en", "domain": ["mathematics", "school"]},
    },
    "languages": {
        "swa": {"community": ["africa", "coast"]},
        "no": {"community": "nordic"},
        "zh": {"community": "east asia"},
        "zho_Hant": {"community": "taiwan"},
    },
}


@pytest.fixture(params=["groups.yaml", "groups.json"])
def mapping(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(YAML if path.suffix == ".yaml" else json.dumps(JSON), encoding="utf-8")
    return read_mapping(path)


def groups(mapping, task, key, **fields):
    facts = TaskFacts(task, peers=["other_sw", "other_de", "law_sw", "law_de"])
    return tuple(one.group for one in assignments(facts, fields, key, mapping))


def test_the_file_comes_before_everything(mapping):
    assert groups(mapping, "gsm8k", "language") == ("en",)
    assert groups(mapping, "gsm8k_de", "language", language="fr") == ("de",)
    assert groups(mapping, "gsm8k_de", "domain") == ("mathematics", "school")
    assert groups(mapping, "other_sw", "language") == ("sw",)
    assert groups(mapping, "gsm8k", "family") == ("Indo-European",)


def test_languages_have_groups_of_the_users(mapping):
    assert groups(mapping, "other_sw", "community") == ("africa", "coast")
    assert groups(mapping, "other", "community", language="nor") == ("nordic",)
    assert groups(mapping, "other_zho_Hant", "community") == ("taiwan",)
    assert groups(mapping, "other_zho_Hans", "community") == ("east asia",)
    assert groups(mapping, "other_de", "community") == ("(none)",)
    assert groups(mapping, "other_sw", "community", community="own") == ("own",)


def test_a_table_of_tasks_or_languages(tmp_path):
    tasks, languages = tmp_path / "tasks.csv", tmp_path / "languages.tsv"
    tasks.write_text("task,language,domain\ngsm8k*,en,math; school\nlaw_*,,law\n", encoding="utf-8")
    languages.write_text("language\tcommunity\nsw\tafrica;coast\n", encoding="utf-8")

    assert groups(read_mapping(tasks), "gsm8k_cot", "domain") == ("math", "school")
    assert groups(read_mapping(tasks), "law_sw", "language") == ("sw",)
    assert groups(read_mapping(languages), "law_sw", "community") == ("africa", "coast")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("groups.yaml", "tasks: [", "neither YAML, JSON nor CSV"),
        ("groups.json", "{", "neither YAML, JSON nor CSV"),
        ("groups.yaml", "", "expected tasks and languages, got 'NoneType'"),
        ("groups.yaml", "task: {a: {b: c}}", "got ['task']"),
        ("groups.yaml", "tasks: [a]", "tasks must be a table"),
        ("groups.yaml", "tasks: {a: b}", "expected fields and groups, got 'b'"),
        ("groups.yaml", "tasks: {a: {b: {c: d}}}", "expected a name, got {'c': 'd'}"),
        ("groups.yaml", "languages: {Klingonese: {a: b}}", "expected BCP-47 tags"),
        ("groups.yaml", "languages: {sw: {language: de}}", "cannot have another language"),
        ("groups.yaml", "tasks: {a: {language: xx}}", "expected a BCP-47 tag or a language's Eng"),
        ("groups.yaml", "tasks: {a: {lang: [de, 5]}}", "under lang, got '5'"),
        ("groups.csv", "task,language\na,C++\n", "under language, got 'C++'"),
        ("groups.yaml", "tasks: {a: {b: c}, a: {b: d}}", "'a' is given twice"),
        ("groups.yaml", "tasks: {a: {b: c, b: d}}", "'b' is given twice"),
        ("groups.json", '{"tasks": {"a": {"b": "c"}}, "tasks": {}}', "'tasks' is given twice"),
        ("groups.yaml", "languages: {sw: {a: b}, swa: {a: c}}", "'swa' is sw, given twice"),
        ("groups.csv", "task,b\na,1\na,2\n", "groups.csv:3: b of 'a' is given twice"),
        ("groups.csv", "a,b\n1,2\n", "expected a first line with task or language"),
        ("groups.csv", "task,b\n1\n", "groups.csv:2: expected 2 columns"),
        ("groups.csv", "task,b\n1,2,3\n", "groups.csv:2: expected 2 columns"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        read_mapping(path)

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_other_bytes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_mapping(tmp_path / "missing.yaml")
    (tmp_path / "groups.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_mapping(tmp_path / "groups.yaml")
