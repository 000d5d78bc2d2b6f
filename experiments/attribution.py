"""Makes `docs/attribution.md`: how often the rules find the language of lm-eval's own tasks.

    python experiments/attribution.py

Every task's language is established a second time here, without the package's rules and tables:
from fields of its YAML that the rules do not read (what a translation's `doc_to_target` is, which
rows `process_docs` picks, splits), from the names of data sets' configurations, and where a folder
has one language, from its README. Needs lm-eval, no network and no data.
"""

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_specfair.groups import task_language
from lm_eval_specfair.groups.language_tags import language_code, language_tag, tag_script
from lm_eval_specfair.groups.task_facts import TaskFacts

PAGE = Path(__file__).parents[1] / "docs" / "attribution.md"
TASKS = Path(lm_eval.__file__).parent / "tasks"
MIXED, UNSAID = "mixed", "unsaid"

# Folders whose README says that everything in them is in one language.
ONE_LANGUAGE = {
    "ar": "aexams alghafa arab_culture arab_culture_completion arabic_leaderboard_complete "
    "arabic_leaderboard_light arabicmmlu",
    "ary": "darija_bench/darija_sentiment darija_bench/darija_summarization darijahellaswag "
    "darijammlu",
    "arz": "egyhellaswag egymmlu",
    "bn": "bangla", "ca": "cabbq catalan_bench", "el": "greekmmlu",
    "es": "esbbq mmlu-redux-spanish noticia spanish_bench",
    "eu": "basque_bench basqueglue eus_proficiency eus_reading eus_trivia "
    "xnli_eu", "fr": "french_bench histoires_morales", "gl": "galician_bench", "id": "copal_id",
    "is": "icelandic_winogrande", "it": "evalita_llm", "ja": "japanese_leaderboard jfinqa",
    "ko": "click csatqa haerae hrm8k/default kbl kmmlu kobest kormedmcqa", "nb": "noreval",
    "nl": "blimp_nl", "pl": "polemo2", "pt": "portuguese_bench", "ru": "libra nerel-bench",
    "tr": "turblimp turkishmmlu", "ug": "ulqa", "zh": "aclue ceval cmmlu zhoblimp",
    "zh-Hant": "tmlu tmmluplus", "en": "hrm8k/en",
}  # fmt: skip
FOLDERS = {folder: tag for tag, folders in ONE_LANGUAGE.items() for folder in folders.split()}
# What single files say: prompts in Valencian, tables of the README, the language of an exam.
SINGLE = {
    "agieval_gaokao_english": "en", "agieval_logiqa_en": "en", "agieval_logiqa_zh": "zh",
    "belebele_glg_Latn": "gl", "cieacova_choice": "ca-valencia", "cieacova_word": "ca-valencia",
    "cocoteros_va": "ca-valencia", "terretaqa": "ca-valencia", "truthfulqa_va": "ca-valencia",
    "xnli_va": "ca-valencia", "indicxnli_gu": "gu", "glianorex": MIXED, "longbench_dureader": "zh",
    "longbench_lsht": "zh", "longbench_multifieldqa_zh": "zh", "longbench_vcsum": "zh",
    "longbench_passage_retrieval_zh": "zh", "transliteration_ar_dr": "ary",
    "transliteration_dr_ar": "ary-Latn", "transliteration_all": MIXED,
    "uncheatable_eval_ao3_nonenglish": MIXED, "uncheatable_eval_wikipedia_nonenglish": MIXED,
    "wmt-ro-en-t5-prompt": "ro", "toksuite_math_chinese": "zh", "toksuite_math_farsi": "fa",
    "toksuite_math_italian": "it", "toksuite_math_turkish": "tr", "c4": "en",
    "indicparam_sanskrit_mix": MIXED, "common_voice_en": "en", "arc_challenge_mt_is": "is",
    "eqbench_ca": "ca", "eqbench_es": "es", "ifeval_ca": "ca", "ifeval_es": "es",
}  # fmt: skip
ALIASES = {
    "arb": "ar", "ara": "ar", "eng": "en", "jp": "ja", "Bengali": "bn", "cls_deva": "sa",
    "ch": "zh", "chn": "zh", "pidgin": "pcm", "dr": "ary", "va": "ca-valencia",
    "AR_XY": "ar", "ES_LA": "es-419", "North Macedonian": "mk", "farsi": "fa", "kirundi": "rn",
}  # fmt: skip
# Configurations whose whole name, or its part in brackets, is the language.
BY_CONFIGURATION = {
    "afrimgsm": "(.*)", "afrimmlu": "(.*)", "afrixnli": "(.*)", "arc_mt": "(.*)",
    "afrobench": "(.*?)(?:_multiple_choice)?",
    "belebele": "(.*)", "bertaqa": "(en|eu)(?:_mt.*)?", "bhs": "([a-z]+)-.*",
    "careqa": "CareQA_(.*?)(?:_open)?", "crows_pairs": "(.*)", "eus_exams": "(es|eu)_.*",
    "global_mmlu": "(.*)", "global_piqa": "([a-z]{3}_[a-z]{4}).*", "headqa": "(.*)",
    "include": "(.*)", "lambada_multilingual": "(.*)", "lambada_multilingual_stablelm": "(.*)",
    "llama3": ".*__multilingual_mmlu_(..)__details", "mela": "(.*)", "mgsm": "(.*)",
    "mlqa": r"mlqa\.(..)\...", "mmlu_prox": "(.*)", "multiblimp": "(.*)", "noreval": "(nb|nn)",
    "okapi": "(.*)", "openai-mmmlu": "(.*)", "paws-x": "(.*)", "qa4mre": r".*\.(EN)",
    "toksuite": "toksuite_(chinese|english|farsi|italian|turkish)_.*",
    "truthfulqa-multi": "(.*)", "xcopa": "(.*)", "xnli": "(.*)", "xquad": r"xquad\.(.*)",
    "xstorycloze": "(.*)", "xwinograd": "(.*)",
}  # fmt: skip


def language(name: str, path: str, config: dict[str, Any]) -> str:
    """A task's language, `MIXED`, or `UNSAID` where the task nowhere says that it is English."""
    folder, *rest = path.split("/")
    target, picked = str(config.get("doc_to_target")), str(config.get("process_docs"))
    if name in SINGLE:
        return SINGLE[name]
    if "translate-test" in str(config.get("dataset_path")):
        return "en"
    for pattern in (
        r"sentence_([a-z]{3}_[A-Za-z]{4})",  # FLORES, NTREX
        r"translation\[\"(..)\"\]",  # WMT, IWSLT
        r"^([a-z]{3})(?:_target)?_text$",  # SALT
        r"^\{\{(ca|es|va)\}\}$",  # phrases
    ):
        if found := re.search(pattern, target):
            return standard(found[1])
    if "/mafand/" in path:  # the folder says which way a configuration is read
        one, other = str(config["dataset_name"]).split("-")
        return standard(one if rest[-2] == "african-english" else other)
    if "/tatoeba/" in path:
        one, other = str(config["dataset_name"]).split("-")
        return standard(one if target == "sourceString" else other)
    if "darija_translation" in path:
        found = re.search(r"utils\.[a-z]+_([a-z]+)$", picked)
        return standard({"msa": "arb"}.get(found[1], found[1])) if found else MIXED
    if folder in ("tydiqa", "indicparam"):
        return standard(picked.rpartition("process_docs_")[2])
    if folder in ("glianorex", "uncheatable_eval") and picked.endswith(("english", "french")):
        return standard(picked.rpartition("_")[2])
    if folder in ("pisa", "infinitebench"):
        split = re.fullmatch(r"(?:long.*_)?(ch|chn|..)", str(config.get("test_split")))
        return standard(split[1]) if split else UNSAID
    if folder == "aradice":
        variety = re.search("-(egy|eng|lev)$", f"{config['dataset_name']}")
        variety = variety or re.search("-(egy|lev)$", str(config["dataset_path"]))
        return {"egy": "arz", "eng": "en", "lev": "apc"}[variety[1]] if variety else "ar"
    if folder == "noreval" and (written := re.search("(nno|nob)/", path)):
        return standard(written[1])
    if folder == "agieval" and re.search("gaokao|jec", path):
        return "zh"
    if folder in BY_CONFIGURATION:
        found = re.fullmatch(BY_CONFIGURATION[folder], str(config.get("dataset_name") or "-"))
        if found and (tag := standard(found[1])) != UNSAID:
            return tag
    whole = next((f for f in FOLDERS if path.startswith(f"{f}/")), None)
    return FOLDERS[whole] if whole else UNSAID


def standard(text: str) -> str:
    return language_tag(ALIASES.get(text, text).replace("_", "-")) or UNSAID


def same(one: str | None, other: str) -> bool:
    """One language in one script; a region more or less is no mistake."""
    if one is None:
        return False
    return (language_code(one), tag_script(one)) == (language_code(other), tag_script(other))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make docs/attribution.md: how often the rules find the language of lm-eval's "
        "own tasks. Needs lm-eval, no network and no data; takes about two minutes."
    )
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="(default: %(default)s)")
    output = parser.parse_args().output
    index = TaskManager().task_index
    tasks: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, entry in sorted(index.items()):
        # The index holds this project's own tasks too.
        if entry.kind.name not in ("TASK", "PY_TASK") or entry.yaml_path is None:
            continue
        if entry.yaml_path.is_relative_to(TASKS):
            config = load_yaml(entry.yaml_path, resolve_func=False, recursive=True)
            tasks[name] = entry.yaml_path.relative_to(TASKS).as_posix(), config
    truth = {name: language(name, *rest) for name, rest in tasks.items()}

    rows = []
    for label, with_config, with_table in (
        ("names alone", False, True),
        ("names and configuration", True, True),
        ("no table of suites: names alone", False, False),
        ("no table of suites: names and configuration", True, False),
    ):
        found = concluded(tasks, with_config=with_config, with_table=with_table)
        rows.append((label, *counts(found, truth)))
        if with_config and with_table:
            best = found
        print(rows[-1])
    output.parent.mkdir(exist_ok=True)
    output.write_text(page(rows, tasks, truth, best), encoding="utf-8")
    print(output)


def concluded(
    tasks: dict[str, tuple[str, dict[str, Any]]], *, with_config: bool, with_table: bool
) -> dict[str, str | None]:
    """What the package's rules say of each task, with their caches emptied."""
    caches = ("_row", "_concluded", "language_in_name", "is_about_code")
    # Without the table all tasks of one folder are a run, so that its names can be believed.
    folders: dict[str, list[str]] = defaultdict(list)
    for name, (path, _) in tasks.items():
        folders[path.split("/")[0]].append(name)
    suites = task_language._suites if with_table else list
    with mock.patch.object(task_language, "_suites", suites):
        for cache in caches:
            getattr(task_language, cache).cache_clear()
        found = {}
        for name, (path, config) in tasks.items():
            peers = folders[path.split("/")[0]]
            facts = TaskFacts(name, {}, config if with_config else {}, peers)
            conclusion = task_language.language_of_task(facts)
            found[name] = conclusion and conclusion[0]
    for cache in caches:
        getattr(task_language, cache).cache_clear()
    return found


def counts(found: dict[str, str | None], truth: dict[str, str]) -> tuple[int, int, int, int]:
    """Tasks with a language, answers, right answers among those, wrong answers."""
    said = {name for name, tag in truth.items() if tag not in (MIXED, UNSAID)}
    answers = {name for name, tag in found.items() if tag is not None}
    right = {name for name in answers if same(found[name], truth[name] if name in said else "en")}
    right -= {name for name in right if truth[name] == MIXED}
    return len(said), len(answers & said), len(right & said), len(answers - right)


def page(
    rows: list[tuple[str, int, int, int, int]],
    tasks: dict[str, tuple[str, dict[str, Any]]],
    truth: dict[str, str],
    found: dict[str, str | None],
) -> str:
    names = [name for name, tag in truth.items() if tag not in (MIXED, UNSAID)]
    missing = [name for name in names if found[name] is None]
    wrong = [
        name
        for name, tag in found.items()
        if tag is not None and not same(tag, "en" if truth[name] == UNSAID else truth[name])
    ]
    mixed = [name for name, tag in truth.items() if tag == MIXED]
    unsaid = [name for name, tag in truth.items() if tag == UNSAID and found[name] is None]
    folders = Counter(tasks[name][0].split("/")[0] for name in unsaid)
    languages: dict[str, int] = defaultdict(int)
    for name in names:
        languages[truth[name]] += 1
    table = [
        f"| {label} | {right:,} of {said:,} ({right / said:.2%}) | {wrong:,} "
        f"({right / max(right + wrong, 1):.2%}) |"
        for label, said, _, right, wrong in rows
    ]
    template = (Path(__file__).parent / "attribution_page.md").read_text(encoding="utf-8")
    return template.format(
        version=lm_eval.__version__ if hasattr(lm_eval, "__version__") else "0.4.13",
        num_tasks=f"{len(tasks):,}",
        num_said=f"{len(names):,}",
        num_languages=len(languages),
        table="\n".join(table),
        missing=", ".join(f"`{name}`" for name in missing) or "None.",
        wrong=", ".join(f"`{name}` ({found[name]})" for name in wrong) or "None.",
        mixed=", ".join(f"`{name}`" for name in mixed),
        num_unsaid=f"{len(unsaid):,}",
        unsaid=", ".join(f"{folder} ({number})" for folder, number in sorted(folders.items())),
    )


if __name__ == "__main__":
    main()
