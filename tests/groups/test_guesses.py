"""Where a group's name comes from, and what is not taken for a language."""

import json

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.groups.assign import NO_GROUP, assignments, display_name, group_of
from lm_eval_specfair.groups.language_tags import language_tag
from lm_eval_specfair.groups.sources import GROUP_SOURCES
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.task_language import language_of_task
from lm_eval_specfair.groups.user_file import UserGroups

from support.synthetic_records import generation, write_folder


def all_of(prefix, words):
    return [prefix + word for word in words.split()]


# Tasks of one run each; none of them has a language of people.
NO_LANGUAGE = [
    # Programs, as suites of code call them.
    *(
        f"multiple_{x}"
        for x in [
            "adb",
            "clj",
            "cpp",
            "cs",
            "go",
            "java",
            "js",
            "lua",
            "ml",
            "php",
            "pl",
            "py",
            "rb",
            "rs",
            "sh",
            "ts",
        ]
    ),
    *all_of("humaneval_x_", "cpp cs go java js ts"),
    *all_of("mbxp_", "cs go java js kt php pl py rb ts"),
    *all_of("code2text_", "go java php ruby"),
    *(
        "humaneval",
        "mbpp_plus_instruct",
        "livecodebench_cs",
        "ds1000_sh",
        "apps_is",
        "crux_eval_it",
    ),
    # Types of files, departments, courts, exams, splits, characters.
    *("edge_until_nl", "edge_until_cr", "edge_until_tab", "faq_it", "faq_hr", "law_uk", "law_eu"),
    *("exam_ml", "exam_os", "exam_cv", "split_tr", "split_te", "parse_cs", "parse_ts", "parse_css"),
    *("answer_yes", "answer_no", "time_ms", "time_sec", "rosetta_pl", "rosetta_ada", "rosetta_nim"),
    *("arc_agi", "arc_easy", "pronoun_he", "pronoun_it", "states_ca", "states_la", "translate_de"),
]
# Kept back: names of the BigCode evaluation harness, looked up after the rule was written.
KEPT_BACK = [
    *(
        f"multiple-{x}"
        for x in [
            "py",
            "sh",
            "cpp",
            "cs",
            "d",
            "go",
            "java",
            "js",
            "jl",
            "lua",
            "pl",
            "php",
            "r",
            "rkt",
            "rb",
            "rs",
            "scala",
        ]
    ),
    *("multiple-swift", "multiple-ts", "codexglue_code_to_text-python-left", "conala", "concode"),
    *all_of("codexglue_code_to_text-", "python go ruby java javascript php"),
    *all_of("codexglue_text_to_text-", "chinese_en danish_en latvian_en norwegian_en"),
    *all_of("humanevalsynthesize-", "python cpp js java go rust"),
    *all_of("humanevalfixtests-", "python cpp js java go rust"),
    *("apps-introductory", "ds1000-all-completion", "instruct-humaneval", "mbppplus", "parity"),
    *("python_bugs", "quixbugs", "pal-gsm8k-greedy", "santacoder_fim", "studenteval", "mercury"),
]


@pytest.mark.parametrize("names", [NO_LANGUAGE, KEPT_BACK])
@pytest.mark.parametrize("in_company", [True, False])
def test_code_files_and_abbreviations_are_no_languages(names, in_company):
    for name in names:
        peers = names if in_company else [name]
        assert language_of_task(TaskFacts(name, peers=peers)) is None, name


@pytest.mark.parametrize("code", ["cs", "ts", "sh", "pl", "ml", "cpp", "css", "IT", "uk"])
def test_a_configuration_is_believed_where_its_name_usually_means_nothing_else(code):
    assert language_of_task(TaskFacts("quiz", {}, {"dataset_name": code})) is None
    assert language_of_task(TaskFacts(f"mbpp_{code}", {}, {"dataset_name": code})) is None
    german = language_of_task(TaskFacts("quiz", {}, {"dataset_name": "de"}))
    assert german == ("de", "dataset")


def test_names_are_believed_where_the_tasks_of_a_run_differ_in_them_alone():
    peers = ["quiz_cs_5shot", "quiz_de_5shot", "quiz_sw_5shot", "other_it"]

    def found(name, peers=peers):
        conclusion = language_of_task(TaskFacts(name, peers=peers))
        return conclusion and conclusion[0]

    assert [found(name) for name in peers] == ["cs", "de", "sw", None]
    assert found("quiz_de_5shot", peers[1:2]) is None
    assert found("quiz_de_5shot", [*peers, "quiz_hard_5shot"]) is None
    assert found("quiz_deu_Latn", []) == "de"  # that is no accident
    assert found("xnli_it", []) == "it"  # a known suite


AMBIGUOUS = [
    *(
        "uk fr de",
        "uk ru de",
        "in br fr de",
        "ca my de fr es",
        "be ch de",
        "se fi no",
        "ar br cl es",
    ),
    *("ar br cl es", "ha hi he ho", "hi ho", "he hi yo ha", "de hi az", "id hi fl"),
]
CLEAR = [
    *("uk fr en", "uk ru ja", "de fr it", "ha hi he yo sw", "es pt", "ar zh de", "sv da fi"),
    *("German French", "deu fra spa", "hi ur en", "ha ig yo", "he ar en de ru", "gl oc es"),
]


@pytest.mark.parametrize("words", AMBIGUOUS + CLEAR)
def test_codes_of_countries_states_and_words_are_guesses_of_low_certainty(words):
    tasks = [f"quiz_on_{word}" for word in words.split()]
    found = [language_of_task(TaskFacts(name, peers=tasks)) for name in tasks]
    sources = {each[1] for each in found if each is not None}

    if words in AMBIGUOUS:
        assert sources <= {"ambiguous_name"}
    else:
        assert sources == {"name"}
        assert None not in found
    # A configuration that says the same adds no certainty where its code means something else.
    stated = TaskFacts("law_uk", {}, {"dataset_name": "uk"}, ["law_uk", "law_fr", "law_de"])
    assert language_of_task(stated) == ("uk", "ambiguous_name")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("es_LA", "es-419"), ("ES_LA", "es-419"), ("pt_LA", "pt-419"), ("lo_LA", "lo-LA"),
        ("en_XX", "en"), ("ar_XY", "ar"), ("en-XA", "en"), ("ar-XB", "ar"), ("sr_XK", "sr-XK"),
        ("en_EU", "en"), ("fr_UN", "fr"), ("en-001", "en"), ("es-419", "es-419"), ("de_ZZ", "de"),
        ("ar_AR", "ar"), ("sv_SV", "sv"), ("ca_CA", "ca"), ("en_EN", "en"), ("zh_ZH", "zh"),
        ("de_DE", "de-DE"), ("pt_PT", "pt-PT"), ("mn_MN", "mn-MN"), ("en_UK", "en-GB"),
        ("zh-Hant-XX", "zh-Hant"), ("cpp", None), ("CPP", None), ("css", None), ("xml", None),
        ("uk_UK", "uk"), ("cs_CS", "cs"), ("uk_UA", "uk-UA"), ("cs_CZ", "cs-CZ"), ("en_USA", "en"),
        ("ar_ARB", "ar"), ("ar-ary", "ary"), ("zh-yue", "yue"), ("zh_CMN", "zh"), ("en-abc", None),
        ("zh_CHS", "zh-Hans"), ("zh-CHT", "zh-Hant"), ("sr-el", "sr-Latn"), ("sr-ec", "sr"),
        ("zh-classical", "lzh"), ("all", None), ("any", None), ("mix", None), ("unk", None),
        ("ber", None), ("csv", None), ("ceb", "ceb"), ("yue", "yue"), ("x-elvish", None),
        # As programs and Wikipedia write locales.
        ("en_US.UTF-8", "en-US"), ("pt_BR.ISO8859-1", "pt-BR"), ("zh_TW.Big5", "zh-TW"),
        ("sr@latin", "sr-Latn"), ("sr_RS@latin", "sr-Latn-RS"), ("uz@cyrillic", "uz-Cyrl"),
        ("sr_RS.UTF-8@latin", "sr-Latn-RS"), ("de_DE@euro", "de-DE"), ("C.UTF-8", None),
        ("ca_ES@valencia", "ca-ES-valencia"), ("C", None), ("POSIX", None), ("C@latin", None),
        ("zh-rCN", "zh-CN"), ("b+sr+Latn", "sr-Latn"), ("zh_CN_#Hans", "zh-Hans-CN"),
        ("sr__#Latn", "sr-Latn"), ("zh_Hant_HK.UTF-8", "zh-Hant-HK"), ("zh-min-nan", "nan"),
        ("roa-tara", "nap-x-tara"), ("map-bms", "jv-x-bms"), ("be-x-old", "be-tarask"),
        ("en-US-u-ca-gregory", "en-US"), ("report.de", None), ("user@home", None),
    ],
)  # fmt: skip
def test_locales_that_name_no_country_and_codes_of_no_language(text, tag):
    assert language_tag(text) == tag


def test_a_documents_programming_language_is_named_as_one():
    def of(task, **fields):
        return group_of(TaskFacts(task), fields, "language")

    assert of("multiple_cs", language="cs") == "C#"
    assert of("humaneval_ml", lang="ml") == "OCaml"
    assert of("anything", language="cpp") == display_name("cpp", "language") == "cpp"
    assert of("quiz", language="cs") == "cs"
    assert of("quiz", language=float("nan")) == NO_GROUP
    assert of("quiz", language="nan") == "nan"  # Min Nan Chinese
    for user in (UserGroups(), UserGroups(languages={"sw": {"family": ["Bantu"]}})):
        [family] = assignments(TaskFacts("multiple_cs"), {"language": "C++"}, "family", user)
        assert family.group == NO_GROUP
    stated = UserGroups(tasks={"mbpp_cs": {"language": ["cs"]}})
    [language] = assignments(TaskFacts("mbpp_cs"), {}, "language", stated)
    assert language.group == "cs"


SOURCES = {
    "file": {"user": UserGroups(tasks={"*": {"language": ["de"]}})},
    "document": {"document": {"language": "de"}},
    "metadata": {"metadata": {"language": "de"}},
    "suite": {"name": "xnli_de"},
    "dataset": {"config": {"dataset_name": "de"}},
    "name": {"peers": ["quiz_de", "quiz_fr"]},
    "ambiguous_name": {"peers": ["quiz_de", "quiz_fr", "quiz_uk"]},
}


def assigned(group_by, name="quiz_de", document=(), user=None, **facts):
    user = user or UserGroups()
    return assignments(TaskFacts(name, **facts), dict(document), group_by, user)[0]


@pytest.mark.parametrize("source", GROUP_SOURCES)
def test_each_group_says_where_its_name_comes_from_and_may_be_refused(source):
    case = SOURCES[source]

    for group_by, group in (("language", "de"), ("family", "Indo-European")):
        assignment = assigned(group_by, **case)
        assert (assignment.group, assignment.source) == (group, source)
    if source != "file":
        refusing = UserGroups(sources=frozenset(GROUP_SOURCES) - {source})
        assert assigned("language", **case, user=refusing).group == NO_GROUP
    assert assigned("task", **case).source is None


def report(capsys, *arguments):
    assert main(["report", *map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_report_lists_guesses_and_can_do_without(tmp_path, capsys):
    records = [generation(f"quiz_{tag}", i) for tag in ("de", "fr", "it") for i in range(6)]
    records += [generation("law_sw", i, group_fields={"language": "sw"}) for i in range(6)]
    folder = write_folder(tmp_path / "run", records)

    guessing = report(capsys, folder)
    assert set(guessing["groups"]) == {"de", "fr", "it", "sw"}
    assert guessing["run"]["group_sources"]["it"] == {"name": 6}
    assert guessing["run"]["group_sources"]["sw"] == {"document": 6}
    (note,) = [note for note in guessing["notes"] if "guessed" in note]
    assert "18 requests was guessed from the names of tasks (quiz_de: German (de)," in note

    without = report(capsys, folder, "--group-source", "document,metadata")
    assert set(without["groups"]) == {NO_GROUP, "sw"}
    assert not [note for note in without["notes"] if "guessed" in note]
    compared = ["compare", str(folder), str(write_folder(tmp_path / "other", records))]
    assert main([*compared, "--format", "json"]) == 0
    assert "was guessed from the names of tasks" in capsys.readouterr().out
    assert main(["report", str(folder), "--group-source", "rumour"]) == 2
    assert "expected some of file, document, metadata" in capsys.readouterr().err


def test_a_guess_that_may_as_well_be_a_country_is_listed_apart_and_can_be_refused(tmp_path, capsys):
    records = [generation(f"law_{tag}", i) for tag in ("uk", "fr", "de") for i in range(6)]
    records += [generation(f"quiz_{tag}", i) for tag in ("sw", "ja") for i in range(6)]
    folder = write_folder(tmp_path / "run", records)

    guessing = report(capsys, folder)
    assert guessing["run"]["group_sources"]["uk"] == {"ambiguous_name": 6}
    sure, unsure = [note for note in guessing["notes"] if "guessed" in note]
    assert "12 requests was guessed from the names of tasks (quiz_ja: Japanese (ja)," in sure
    assert "18 requests was guessed with little certainty" in unsure
    assert "law_uk: Ukrainian (uk)" in unsure
    without = report(capsys, folder, "--group-source", "document,metadata,suite,dataset,name")
    assert set(without["groups"]) == {NO_GROUP, "sw", "ja"}


def test_patterns_that_fit_no_task_are_named(tmp_path, capsys):
    groups = tmp_path / "groups.yaml"
    groups.write_text("tasks: {'quiz_*': {language: de}, 'quizz_*': {language: fr}, x: {a: b}}")
    folder = write_folder(tmp_path / "run", [generation("quiz_1", i) for i in range(6)])

    [note] = [n for n in report(capsys, folder, "--groups", groups)["notes"] if "--groups" in n]
    assert note == "No task fits these patterns of the --groups file: 'quizz_*', 'x'."
    groups.write_text("tasks: {'quiz_*': {language: de}}")
    assert not [n for n in report(capsys, folder, "--groups", groups)["notes"] if "--groups" in n]


def test_tasks_of_runs_that_are_read_together_are_looked_at_together(tmp_path, capsys):
    folders = [
        write_folder(tmp_path / tag, [generation(f"quiz_{tag}", i) for i in range(6)])
        for tag in ("de", "fr")
    ]

    assert set(report(capsys, *folders)["groups"]) == {"de", "fr"}
    assert set(report(capsys, folders[0])["groups"]) == {NO_GROUP}
