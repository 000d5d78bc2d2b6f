"""Which group a request belongs to."""

import pytest

from lm_eval_specfair.groups import assign
from lm_eval_specfair.groups.assign import (
    NO_GROUP,
    canonical_key,
    display_name,
    parallel_key,
    standard_language,
)
from lm_eval_specfair.groups.task_facts import TaskFacts

from support.synthetic_records import generation


def groups_of(record, group_by, metadata, config=None):
    # Two tasks that differ in their language alone: names are believed.
    facts = TaskFacts(record.task, metadata, config or {}, peers=["demo_sw", "demo_de"])
    assigned = assign.assignments(facts, record.group_fields, group_by)
    return tuple(one.group for one in assigned)


def group_of(*arguments):
    return groups_of(*arguments)[0]


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
        ("zho_Hans", "zh-Hans"),  # both of Chinese are named where a data set names one
        ("iw", "he"),
        ("Swahili", "sw"),
        ("Klingonese of Mars", "Klingonese of Mars"),
    ],
)
def test_languages_have_one_standard_form(text, tag):
    assert standard_language(text) == tag


def test_translations_share_a_key_and_other_documents_do_not():
    swahili, french = "xnli_multi_sw", "xnli_multi_fr"

    assert parallel_key(swahili, 7, "language") == parallel_key(french, 7, "lang")
    assert parallel_key(swahili, 7, "language") != parallel_key(french, 8, "language")
    assert parallel_key(swahili, 7, "language") != parallel_key("xcopa_sw", 7, "language")
    assert parallel_key(swahili, 7, "domain") != parallel_key(french, 7, "domain")


def test_any_field_makes_a_group():
    record = generation("demo_sw", 0, group_fields={"domain": "law"})

    assert group_of(record, "domain", {}) == "law"
    assert group_of(record, "register", {"register": "formal"}) == "formal"
    assert group_of(record, "domain", {"domain": "mathematics"}) == "law"
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
        ("sh", "language", "Serbo-Croatian (sh)"),
        ("5", "resource_class", "5, the winners"),
        ("unclassified", "resource_class", "unclassified"),
        ("language: sw", "language,family", "Swahili (sw)"),
        ("family: Indo-European", "language,family", "Indo-European"),
        ("domain: law", "language,domain", "domain: law"),
        ("Klingonese of Mars", "language", "Klingonese of Mars"),
    ],
)
def test_groups_are_shown_with_name_and_code(group, group_by, name):
    assert display_name(group, group_by) == name


@pytest.mark.parametrize(
    ("tag", "script", "family", "macroarea", "resource_class"),
    [
        # By hand: CLDR, glottolog.org, and figures and appendix of Joshi et al. 2020.
        ("en", "Latn", "Indo-European", "Eurasia", "5"),
        ("sw", "Latn", "Atlantic-Congo", "Africa", "2"),
        ("zh-Hant", "Hant", "Sino-Tibetan", "Eurasia", "5"),
        ("eu", "Latn", "Basque (isolate)", "Eurasia", "4"),
        ("yo", "Latn", "Atlantic-Congo", "Africa", "2"),
        ("te", "Telu", "Dravidian", "Eurasia", "1"),
        ("th", "Thai", "Tai-Kadai", "Eurasia", "3"),
        ("ja", "Jpan", "Japonic", "Eurasia", "5"),
        ("qu", "Latn", "Quechuan", "South America", "1"),
        ("ht", "Latn", "Indo-European", "North America", "2"),
        ("arz", "Arab", "Afro-Asiatic", "Africa", "3"),
        ("acm", "Arab", "Afro-Asiatic", "Eurasia", "unclassified"),
        ("fil", "Latn", "Austronesian", "Papunesia", "3"),
        ("sr-Latn", "Latn", "Indo-European", "Eurasia", "4"),
    ],
)
def test_what_follows_from_a_language(tag, script, family, macroarea, resource_class):
    record = generation("gsm8k", 0, group_fields={"language": tag})

    found = [
        group_of(record, key, {}) for key in ("script", "family", "macroarea", "resource_class")
    ]
    assert found == [script, family, macroarea, resource_class]
    assert group_of(record, "region", {}) == macroarea


# Of the suites' own lists of languages.
SUITES = {
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "mgsm": "bn de en es fr ja ru sw te th zh",
    "xquad": "ar de el en es hi ro ru th tr vi zh",
    "mlqa": "ar de en es hi vi zh",
    "tydiqa": "ar bn en fi id ko ru sw te",
    "global_mmlu": "am ar bn cs de el en es fa fil fr ha he hi id ig it ja ko ky lt mg ms ne nl ny "
    "pl pt ro ru si sn so sr sv sw te tr uk vi yo zh",
    "irokobench": "amh eng ewe fra hau ibo kin lin lug orm sna sot swa twi vai wol xho yor zul",
    "xlsum": "amharic arabic azerbaijani bengali burmese chinese_simplified chinese_traditional "
    "english french gujarati hausa hindi igbo indonesian japanese kirundi korean kyrgyz marathi "
    "nepali oromo pashto persian pidgin portuguese punjabi russian scottish_gaelic "
    "serbian_cyrillic serbian_latin sinhala somali spanish swahili tamil telugu thai tigrinya "
    "turkish ukrainian urdu uzbek vietnamese welsh yoruba",
    "flores": "ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn "
    "amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva "
    "ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva "
    "bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn "
    "ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn "
    "epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn "
    "fuv_Latn gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr "
    "hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn "
    "jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl "
    "kbp_Latn kea_Latn khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab "
    "knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn "
    "ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva "
    "min_Arab min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn "
    "nob_Latn npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn "
    "pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl "
    "sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn sna_Latn "
    "snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn "
    "szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi "
    "tpi_Latn tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl "
    "umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn "
    "yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn",
    "flores_plus": "arg_Latn brx_Deva chv_Cyrl dar_Cyrl dgo_Deva gom_Deva kaa_Latn lld_Latn "
    "mhr_Cyrl myv_Cyrl nqo_Nkoo snd_Deva tyv_Cyrl vmw_Latn wuu_Hans hyw_Armn sah_Cyrl",
    "belebele": "ben_Latn hin_Latn npi_Latn sin_Latn urd_Latn",  # the rest are in FLORES
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("key", ["script", "family", "macroarea", "resource_class"])
def test_every_language_of_the_suites_has_all_that_a_report_is_read_by(suite, key):
    for code in SUITES[suite].split():
        record = generation("a_task", 0, group_fields={"language": code})
        group = group_of(record, key, {})
        # Esperanto, a constructed language, is of no part of the world in Glottolog.
        assert group != NO_GROUP or (code, key) == ("epo_Latn", "macroarea"), code
        if key == "script" and "_" in code and code[4:5].isupper():
            assert {group, code[4:]} in ({code[4:]}, {"Kore", "Hang"}), code


def test_a_list_puts_a_request_into_several_groups():
    record = generation("demo_sw", 0, group_fields={"domain": ["law", "law", "health"]})

    assert groups_of(record, "domain", {}) == ("law", "health")
    assert groups_of(record, "community", {"community": ["africa", "coast"]}) == ("africa", "coast")
    assert groups_of(generation("gsm8k", 0), "domain", {"domain": []}) == (NO_GROUP,)


def test_several_fields_make_groups_of_their_own():
    record = generation("demo_sw", 0, group_fields={"domain": "law"})

    assert canonical_key(" lang, region ,language") == "language,macroarea"
    assert groups_of(record, "lang,family,domain", {}) == (
        "language: sw",
        "family: Atlantic-Congo",
        "domain: law",
    )
    assert groups_of(generation("gsm8k", 0), "lang,family", {}) == (NO_GROUP,)


def test_the_configuration_is_asked_after_the_metadata():
    record = generation("gsm8k", 0)
    config = {"dataset_name": "sw"}

    assert group_of(record, "language", {}, config) == "sw"
    assert group_of(record, "family", {}, config) == "Atlantic-Congo"
    assert group_of(record, "language", {"language": "de"}, config) == "de"
