"""Which group a request belongs to."""

import pytest
from synthetic_records import generation

from lm_eval_specfair.metrics.groups import (
    NO_GROUP,
    display_name,
    group_of,
    language_in_name,
    parallel_key,
    standard_language,
)


def test_the_document_comes_before_the_metadata_and_these_before_the_name():
    record = generation("demo_sw", 0, group_fields={"language": "fr"})

    assert group_of(record, "language", {"language": "de"}) == "fr"
    assert group_of(generation("demo_sw", 0), "language", {"language": "de"}) == "de"
    assert group_of(generation("demo_sw", 0), "language", {}) == "sw"
    assert group_of(generation("gsm8k", 0), "language", {}) == NO_GROUP


@pytest.mark.parametrize("asked", ["language", "lang"])
@pytest.mark.parametrize("field", ["language", "lang", "locale"])
def test_names_of_the_language_field_are_interchangeable(asked, field):
    record = generation("gsm8k", 0, group_fields={field: "zho_Hans"})

    assert group_of(record, asked, {}) == "zh-Hans"


def test_an_empty_field_says_nothing():
    assert group_of(generation("demo_sw", 0, group_fields={"language": " "}), "lang", {}) == "sw"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("zh-CN", "zh-CN"),
        ("zh_CN", "zh-CN"),
        ("zho", "zh"),
        ("chi", "zh"),
        ("ZH", "zh"),
        ("eng_Latn", "en"),  # Latin goes without saying in English
        ("sr_Latn", "sr-Latn"),  # and not in Serbian
        ("iw", "he"),
        ("Swahili", "sw"),
        ("Klingonese of Mars", "Klingonese of Mars"),
    ],
)
def test_languages_have_one_standard_form(text, tag):
    assert standard_language(text) == tag


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        ("xnli_multi_sw", "sw"),
        ("specfair_demo_zh", "zh"),
        ("mgsm_direct_bn", "bn"),
        ("global_mmlu_full_te_professional_law", "te"),  # Lauje is called law
        ("afrimmlu_direct_amh_prompt_5", "am"),
        ("belebele_zho_Hant", "zh-Hant"),
        ("flores_eng_Latn-wol_Latn_prompt_1", "wo-Latn"),
        ("global_piqa_parallel_cloze_cmn_hant", "cmn-Hant"),
        ("truthfulqa_pt_BR", "pt-BR"),
        ("belebele_pcm_prompt_2", "pcm"),  # three letters only, with speakers
        ("gsm8k", None),
        ("gsm8k_cot", None),  # Caquinte
        ("arc_challenge", None),  # Aramaic
        ("mmlu_professional_law", None),
        ("winogrande", None),
        ("hendrycks_math_counting_and_prob", None),
        ("some_task_und", None),  # the tag for an unknown language
    ],
)
def test_the_language_in_names_of_known_tasks(task, tag):
    assert language_in_name(task)[0] == tag


def test_translations_share_a_key_and_other_documents_do_not():
    swahili, french = (generation(f"xnli_multi_{tag}", 7) for tag in ("sw", "fr"))

    assert parallel_key(swahili, "language") == parallel_key(french, "lang")
    assert parallel_key(swahili, "language") != parallel_key(
        generation("xnli_multi_fr", 8), "language"
    )
    assert parallel_key(swahili, "language") != parallel_key(generation("xcopa_sw", 7), "language")
    assert parallel_key(swahili, "domain") != parallel_key(french, "domain")


def test_any_field_makes_a_group():
    record = generation("demo_sw", 0, group_fields={"domain": "law"})

    assert group_of(record, "domain", {}) == "law"
    assert group_of(record, "register", {"register": "formal"}) == "formal"
    assert group_of(record, "region", {"region": ["Africa"]}) == NO_GROUP
    assert group_of(record, "task", {}) == "demo_sw"


@pytest.mark.parametrize(("tag", "script"), [("ja", "Jpan"), ("sr-Latn", "Latn"), ("hi", "Deva")])
def test_a_script_follows_from_the_language(tag, script):
    record = generation("gsm8k", 0, group_fields={"language": tag})

    assert group_of(record, "script", {}) == script
    assert group_of(generation("gsm8k", 0), "script", {}) == NO_GROUP


def test_a_group_cannot_command_the_terminal():
    record = generation("gsm8k", 0, group_fields={"domain": "a\x1b[31m\nb\u202e"})

    assert group_of(record, "domain", {}) == "a [31m b"


@pytest.mark.parametrize(
    ("group", "group_by", "name"),
    [
        ("sw", "language", "Swahili (sw)"),
        ("zh-Hans", "lang", "Chinese (Simplified) (zh-Hans)"),
        ("Deva", "script", "Devanagari (Deva)"),
        ("sw", "domain", "sw"),
        (NO_GROUP, "language", NO_GROUP),
        ("Klingonese of Mars", "language", "Klingonese of Mars"),
    ],
)
def test_groups_are_shown_with_name_and_code(group, group_by, name):
    assert display_name(group, group_by) == name
