"""The language of a task: hand-checked names, properties of the tags, speed.

`task_languages.tsv` was written by hand from lm-eval's YAML files and READMEs; it knows nothing of
the rules. All 13,123 names are checked by `experiments/attribution.py`.
"""

import csv
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.groups import task_language
from lm_eval_specfair.groups.language_tags import (
    is_language,
    language_tag,
    standard_language,
    tag_script,
)
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import language_in_name

TABLE = Path(__file__).with_name("task_languages.tsv")
HAND_CHECKED = [
    tuple(line.split("\t"))
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def language_of_task(task, config, peers=()):
    conclusion = task_language.language_of_task(TaskFacts(task, {}, config, peers))
    return conclusion and conclusion[0]


def test_the_hand_checked_table_is_large():
    assert len({task for task, _ in HAND_CHECKED}) == len(HAND_CHECKED) >= 150


@pytest.mark.parametrize(("task", "tag"), HAND_CHECKED)
def test_the_language_of_lm_evals_own_tasks(task, tag):
    assert language_of_task(task, {}) == (None if tag == "-" else tag)


@pytest.mark.parametrize(
    ("task", "config", "tag"),
    [
        ("my_task", {"dataset_name": "de"}, "de"),
        ("my_task", {"dataset_name": "deu_Latn"}, "de"),
        ("my_task", {"dataset_name": "PT_BR"}, "pt-BR"),
        ("my_task", {"dataset_name": "Swahili"}, "sw"),
        ("my_task", {"dataset_path": "example/piqa-bn"}, "bn"),
        ("my_task", {"dataset_path": "example/toksuite_chinese"}, "zh"),
        ("my_task", {"dataset_kwargs": {"lang": "sw"}, "dataset_name": "de"}, "sw"),
        ("belebele_deu_Latn", {"dataset_kwargs": {"language": "fr"}}, "fr"),
        ("my_task_sw_biology", {"dataset_name": "sw"}, "sw"),
        # A script that only the configuration names; both name one language.
        ("sib_tzm_prompt_1", {"dataset_name": "tzm_Tfng"}, "tzm-Tfng"),
        # Neither is known to be right.
        ("my_task_de", {"dataset_name": "en"}, None),
        ("my_task_translate_de", {"dataset_name": "de"}, None),
        ("my_task_de", {"dataset_path": "example/gsm-translated"}, None),
        ("gsm8k", {"dataset_path": "openai/gsm8k", "dataset_name": "main"}, None),
        ("csatqa_new", {"dataset_name": "GR"}, "ko"),
        ("unknown", {"dataset_name": "GR"}, None),  # not Guarani: codes are in lower case
        ("unknown", {"dataset_name": "cot"}, None),  # not Caquinte
        ("unknown", {"dataset_name": None, "dataset_path": 3, "dataset_kwargs": []}, None),
    ],
)
def test_the_configuration_says_what_the_name_does_not(task, config, tag):
    assert language_of_task(task, config) == tag


@pytest.mark.parametrize(
    ("task", "tag", "rest"),
    [
        ("xnli_multi_sw", "sw", "xnli_multi"),
        ("specfair_demo_cs", "cs", "specfair_demo"),
        ("my_task_zho_Hans_5shot", "zh-Hans", "my_task_5shot"),
        ("my_translation_eng_Latn-deu_Latn", "de", "my_translation_eng_Latn"),
        ("my-translation-en-de", "de", "my-translation-en"),
        ("my_task_en_de", None, "my_task_en_de"),
        ("my_task_german", "de", "my_task"),
        ("my_task_swa", "sw", "my_task"),
        ("my_task_cat", None, "my_task_cat"),
        ("answer_yes_no", None, "answer_yes_no"),
        ("sw", None, "sw"),
        ("", None, ""),
        ("global_mmlu_full_te_law", "te", "global_mmlu_full_law"),
        ("mgsm_direct_de", "de", "mgsm_direct"),
    ],
)
def test_unknown_names_and_what_remains_of_them(task, tag, rest):
    found = language_in_name(task)

    assert (found.language, found.rest) == (tag, rest)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("arb_Arab", "ar"),
        ("arb_Latn", "ar-Latn"),
        ("cmn", "zh"),
        ("swh_Latn", "sw"),
        ("hau_Latn", "ha"),
        ("acm_Arab", "acm"),
        ("kor_Hang", "ko"),
        ("hbs", "sh"),
        ("hbs_Cyrl", "sh-Cyrl"),
        ("srp_Latn", "sr-Latn"),
        ("por_latn_braz", "pt-BR"),
        ("slv_latn_cerk", "sl"),  # a dialect without a code
        ("cls_deva", "sa"),
        ("Bengali", "bn"),
        ("North Macedonian", "mk"),
        ("chinese_simplified", "zh-Hans"),
        ("Klingonese of Mars", None),
        ("und", None),
        ("mul", None),
        ("qaa", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_tags_of_data_sets_become_one_form(text, tag):
    assert language_tag(text) == tag


def test_a_script_is_not_guessed_where_nothing_is_known():
    assert tag_script("acm") == "Arab"  # langcodes alone would say Latn
    assert tag_script("xpg") is None  # Phrygian
    assert [tag_script(tag) for tag in ("zh-TW", "zh", "sr-Latn", "en-GB")] == [
        "Hant",
        "Hans",
        "Latn",
        "Latn",
    ]


TAG_LIKE = st.from_regex(
    r"[A-Za-z]{1,4}([-_][A-Za-z]{4})?([-_]([A-Za-z]{2,4}|[0-9]{3}))?([-_][A-Za-z0-9]{1,8})?",
    fullmatch=True,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(TAG_LIKE, st.text()))
@example("en-a-bb-x-c")
@example("art-lojban")
@example("zh-cmn-Hans-CN")
@example("\ud800")
@example("pan_Guru_PK")
def test_the_standard_form_is_final_and_never_fails(text):
    once = standard_language(text)

    assert standard_language(once) == once
    if is_language(once):
        tag_script(once)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.text(), st.lists(st.sampled_from(["task", "of", "en", "de_DE", "zh", "_", ""]))),
    st.dictionaries(
        st.sampled_from(["dataset_path", "dataset_name", "dataset_kwargs"]),
        st.one_of(st.none(), st.text(), st.dictionaries(st.just("lang"), st.text())),
    ),
)
def test_any_name_has_a_standard_language_or_none(task, config):
    task = task if isinstance(task, str) else "_".join(task)

    tag = language_of_task(task, config)

    assert tag is None or (is_language(tag) and standard_language(tag) == tag)


def test_the_data_tables_are_well_formed():
    folder = Path(task_language.__file__).parent
    with (folder / "languages.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    tags = [row["tag"] for row in rows]

    assert tags == sorted(set(tags))
    assert all(standard_language(tag) == tag for tag in tags)
    assert {row["macroarea"] for row in rows} <= {
        "", "Africa", "Australia", "Eurasia", "North America", "Papunesia", "South America",
    }  # fmt: skip
    assert {row["resource_class"] for row in rows} == {"", *"012345"}
    assert all(row["family"] for row in rows)

    lines = (folder / "suites.tsv").read_text(encoding="utf-8").splitlines()[1:]
    languages = {line.split("\t")[1] for line in lines if not line.startswith("#")}
    for tag in languages - {"-", "code", "{language}"}:
        assert standard_language(tag) == tag


def test_a_task_is_looked_up_once():
    config = {"dataset_path": "example/data", "dataset_name": "main"}
    language_of_task("my_task_sw", config)
    start = time.process_time()
    for _ in range(100_000):
        language_of_task("my_task_sw", config)

    assert time.process_time() - start < 2  # 0.1 s where nothing else runs
