"""Every task of the suites, built from rows of its data set's true shape, in every language.

    python -m pytest tests/harness/test_suites.py
    python -m pytest tests/harness/test_suites.py -m slow  # the embedded pair, beside --model hf

lm-eval logs broken YAML files at debug level only, so nothing else would notice one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import langcodes
import pytest
from babel.numbers import UnsupportedNumberingSystemError, format_decimal
from lm_eval.tasks import TaskManager

from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.suites.suite_sources import SOURCES

from support import suite_rows

CHECKOUT = Path(__file__).resolve().parents[2]
TASKS = suite_rows.task_files()
ACCEPTANCE = ["mean_acceptance_length", "conditional_acceptance_rate", "overlap"]
COUNTS = {
    "xnli_multi": 15,
    "xnli_multi_cot": 15,
    "mgsm_multi": 11,
    "xquad_multi": 12,
    "mlqa_multi": 7,
    "tydiqa_multi": 9,
    "belebele_multi": 122,
    "global_mmlu_multi": 15,
    "xlsum_multi": 45,
    "flores_multi": 232,
    "afrixnli_multi": 18,
    "afrixnli_multi_cot": 18,
    "afrimgsm_multi": 19,
    "specfair_core": 36,
}
QUALITY = {
    **dict.fromkeys(["xnli", "afrixnli", "belebele", "global"], ("acc",)),
    **dict.fromkeys(["mgsm", "afrimgsm"], ("exact_match",)),
    **dict.fromkeys(["xquad", "mlqa", "tydiqa"], ("exact_match", "f1")),
    "xlsum": ("chrf", "chrf_official", "rouge_l"),
    "flores": ("chrf++", "chrf++_official"),
}
# How a sentence ends where it isn't with a full stop.
STOPS = {"zh": "。", "ja": "。", "hi": "।", "bn": "।", "ur": "۔", "am": "።", "my": "။", "km": "។"}


def kind_of(task: str) -> str:
    return task.removeprefix("specfair_core_").split("_")[0]


def full_mark(metric: str) -> float:
    return 100.0 if metric.startswith("chrf") else 1.0


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return suite_rows.write_mirror(tmp_path_factory.mktemp("mirror"), count=4)


@pytest.fixture(scope="module")
def loaded(mirror):
    """Every task by name, as lm-eval builds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECFAIR_DATA_DIR", str(mirror))
        manager = TaskManager(include_path=str(task_configs_dir()), include_defaults=False)
        return manager.load(list(TASKS))["tasks"]


def score(task, doc, text: str) -> dict[str, float]:
    """What lm-eval would print if this document were the only one."""
    found = task.process_results(doc, [text])
    return {metric: task.aggregation()[metric]([value]) for metric, value in found.items()}


def test_the_committed_yamls_are_what_the_generator_writes():
    done = subprocess.run(
        [sys.executable, CHECKOUT / "experiments" / "suites" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


def test_each_group_has_its_languages_and_the_plain_mean_over_them():
    manager = TaskManager(include_path=str(task_configs_dir()), include_defaults=False)
    for group, count in COUNTS.items():
        config = manager.task_index[group].cfg
        assert len(config["task"]) == len(set(config["task"])) == count
        assert set(config["task"]) <= TASKS.keys()
        metrics = config["aggregate_metric_list"]
        assert [each["metric"] for each in metrics][-3:] == ACCEPTANCE
        assert not any(each["weight_by_size"] for each in metrics)
    assert set(COUNTS) | {"specfair_demo"} <= set(manager.all_groups)
    assert len(TASKS) == sum(COUNTS.values())


def test_every_task_is_built_with_a_prompt_from_its_documents(loaded):
    assert loaded.keys() == TASKS.keys()
    for name, task in loaded.items():
        assert task.OUTPUT_TYPE == "generate_until"
        tag = task.config.metadata["language"]
        assert langcodes.tag_is_valid(tag)
        docs = task.eval_docs
        assert len(docs) == 4
        prompts = [task.doc_to_text(doc) for doc in docs]
        assert len(set(prompts)) == 4, name  # each shows what its own document says
        for doc, prompt in zip(docs, prompts, strict=True):
            assert doc["language"] == tag
            if kind_of(name) == "flores":  # records know both sides of a pair
                assert {doc["source_language"], tag} == {doc["other_language"], "en"} or (
                    name == "specfair_core_flores_en"
                )
            assert "{" not in prompt, (name, prompt)
            assert "None" not in prompt
            assert str(task.doc_to_target(doc)).strip()
        (request,) = (
            task.construct_requests(
                docs[0], prompts[0], metadata=(name, 0, 1), apply_chat_template=False
            ),
        )
        assert request.request_type == "generate_until"
        assert request.args[1]["do_sample"] is False
        metrics = [*QUALITY[kind_of(name)], *ACCEPTANCE]
        assert [*task.aggregation()] == metrics, name


def test_prompts_show_all_of_a_document_in_its_own_words(loaded):
    shown = {
        "xnli": ["premise", "hypothesis"],
        "afrixnli": ["premise", "hypothesis"],
        "mgsm": ["question"],
        "afrimgsm": ["question"],
        "xquad": ["context", "question"],
        "mlqa": ["context", "question"],
        "tydiqa": ["context", "question"],
        "belebele": ["flores_passage", *(f"mc_answer{i}" for i in (1, 2, 3, 4))],
        "global": ["question", *(f"option_{letter}" for letter in "abcd")],
        "xlsum": ["text"],
        "flores": ["source"],
    }
    for name, task in loaded.items():
        for doc in task.eval_docs:
            prompt = task.doc_to_text(doc)
            for column in shown[kind_of(name)]:
                assert doc[column] in prompt, (name, column)
            if kind_of(name) in ("xlsum", "flores"):
                # The reference is not given away.
                assert doc.get("summary", doc.get("target")) not in prompt.replace(
                    doc.get("text", doc.get("source")), ""
                )


def test_rows_have_the_columns_that_the_sources_list():
    for task in TASKS.values():
        dataset, config = task["dataset_path"], task["dataset_name"]
        (row,) = suite_rows.rows(dataset, config, task["metadata"]["language"], 1)
        assert row.keys() >= SOURCES[dataset].columns.keys()
        assert task["test_split"] == SOURCES[dataset].splits[0]


# ------------------------------------------------------------------ scoring, language by language


def right_and_wrong(name, task, doc) -> tuple[list[str], list[str]]:
    """Answers from the row itself: right in several ways of writing, and wrong."""
    kind, tag = kind_of(name), doc["language"]
    stop = STOPS.get(tag, ".")
    if kind in ("xnli", "afrixnli"):
        words = [task.doc_to_target({**doc, "label": i}) for i in range(3)]
        right, wrong = words[doc["label"]], words[(doc["label"] + 1) % 3]
        if "_cot_" not in name:
            rights = [right, f" {right}{stop}", f"«{right}»", f"**{right}**\n{wrong}"]
            return rights, [wrong, f"{wrong}{stop}\n{right}", "", "42"]
        # The prompt shows the shape: "Reason: … Answer: Yes / Maybe / No".
        shape = re.search(r"… ?(.*?)" + re.escape(words[0]), task.doc_to_text(doc))
        mark = shape[1]
        reason = f"{doc['hypothesis']} {wrong}."
        rights = [f"{reason} {mark}{right}{stop}", f"{reason}\n{mark} “{right}”"]
        return rights, [f"{right}{stop} {mark}{wrong}", right, f"{reason}", ""]
    if kind in ("mgsm", "afrimgsm"):
        answer = doc["answer_number"]
        rights = [f"5 + 7. {written}{stop}" for written in numbers_of(answer, tag)]
        return rights, [str(answer + 1), f"{answer} 5 + 1 = 6{stop}", f"{answer}7", ""]
    if kind in ("xquad", "mlqa", "tydiqa"):
        answer = doc["answers"]["text"][0]
        return [answer, f" «{answer}»{stop}", f"{answer}\n\n7"], ["ᚠᚢᚦ", "", "?"]
    if kind in ("belebele", "global"):
        places = "ABCD"
        right = places[int(doc["correct_answer_num"]) - 1] if kind == "belebele" else doc["answer"]
        wrong = places[(places.index(right) + 1) % 4]
        text = suite_rows.passages(tag)[0]
        rights = [right, f" {right}. {text}", f"({right}){stop}", f"**{right}**\n{text} {wrong}"]
        full_width = chr(ord(right) + 0xFEE0)
        return [*rights, f"{full_width}{stop}"], [wrong, f"{wrong}{stop} {text}", "", "7"]
    reference = doc["summary"] if kind == "xlsum" else doc["target"]
    return [reference, f" {reference} "], ["ᚠᚢᚦ", ""]


def numbers_of(value: int, tag: str) -> list[str]:
    """A number as people write it in a language, by Unicode's CLDR."""
    written = [str(value)]
    for locale in dict.fromkeys((tag, "en")):
        for system in ("default", "native"):
            try:
                written.append(format_decimal(value, locale=locale, numbering_system=system))
            except (UnsupportedNumberingSystemError, ValueError, LookupError):
                continue  # Babel has no such locale, or no digits of its own
    full_width = str.maketrans("0123456789", "０１２３４５６７８９")
    return [*dict.fromkeys(written), str(value).translate(full_width)]


def test_a_right_answer_scores_fully_and_a_wrong_one_nothing_in_every_language(loaded):
    for name, task in loaded.items():
        quality = QUALITY[kind_of(name)]
        for doc in task.eval_docs:
            rights, wrongs = right_and_wrong(name, task, doc)
            for text in rights:
                found = score(task, doc, text)
                assert found == pytest.approx({m: full_mark(m) for m in quality}), (name, text)
            for text in wrongs:
                assert score(task, doc, text) == pytest.approx(dict.fromkeys(quality, 0.0)), (
                    name,
                    text,
                )


@pytest.mark.parametrize(
    ("task", "text", "letter"),
    [
        ("belebele_multi_por_Latn", "A resposta é C", "C"),
        ("belebele_multi_eng_Latn", "A because the text says so", "A"),
        ("belebele_multi_eng_Latn", "The answer is D.", "D"),
        ("belebele_multi_eng_Latn", "b) it says so", "B"),
        ("belebele_multi_rus_Cyrl", "В. Так сказано", "B"),  # a Cyrillic letter that looks the same
        ("belebele_multi_rus_Cyrl", "В тексте сказано: D", "D"),  # the same letter is "in"
        ("belebele_multi_tha_Thai", "คำตอบคือC", "C"),
        ("belebele_multi_arb_Arab", "الإجابة: D، لأن", "D"),
        ("belebele_multi_deu_Latn", "Antwort B, denn", "B"),
    ],
)
def test_the_letter_is_found_in_a_sentence(loaded, task, text, letter):
    for i, option in enumerate("ABCD", 1):
        doc = {**loaded[task].eval_docs[0], "correct_answer_num": str(i)}
        assert score(loaded[task], doc, text) == {"acc": float(option == letter)}


@pytest.mark.parametrize(
    ("task", "text", "label"),
    [
        ("xnli_multi_vi", "Có thể", 1),  # maybe; begins with the word for yes
        ("xnli_multi_vi", "Có", 0),
        ("xnli_multi_th", "ไม่ใช่ครับ", 2),  # no; ends with the word for yes
        ("xnli_multi_th", "ใช่ครับ", 0),
        ("xnli_multi_zh", "不是的", 2),
        ("xnli_multi_zh", "是的", 0),
        ("xnli_multi_tr", "HAYIR", 2),
        ("xnli_multi_el", "ΊΣΩΣ", 1),
        ("xnli_multi_es", "Nosotros", None),  # begins with the word for no
        ("xnli_multi_ar", "نَعَمْ", 0),
        ("xnli_multi_cot_fr", "Non, pas vraiment. Réponse : Oui", 0),
        ("xnli_multi_cot_zh", "文本没有说。答案：可能。", 1),
        ("xnli_multi_cot_en", "It says no such thing.\n**Answer**: Maybe", 1),
        ("xnli_multi_cot_ru", "Нет, не так.\n**Ответ:** Да", 0),
    ],
)
def test_labels_that_hold_each_other_are_told_apart(loaded, task, text, label):
    for i in range(3):
        doc = {**loaded[task].eval_docs[0], "label": i}
        assert score(loaded[task], doc, text) == {"acc": float(i == label)}


# ------------------------------------------------------------------ whole evaluations


def lm_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command `lm_eval`, in a process of its own, as it is where the project is installed."""
    code = (
        "from lm_eval_specfair.harness import hook; hook.install()\n"
        "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SPECFAIR_DATA_DIR"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.timeout(1_800)  # a minute or two, unless the machine is busy
def test_plain_lm_eval_lists_and_validates_every_group():
    listed = lm_eval("ls", "tasks").stdout
    words = set(re.findall(r"[\w+-]+", listed))
    domains = {path.stem for path in (task_configs_dir() / "domains_multi").glob("*.yaml")}
    assert TASKS.keys() | COUNTS.keys() | domains <= words
    done = lm_eval("validate", "--tasks", ",".join([*COUNTS, *TASKS]))
    assert done.returncode == 0, done.stderr
    assert lm_eval("validate", "--tasks", "xnli_multi_xx").returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(1_800)  # a minute or two, unless the machine is busy
def test_the_command_runs_xnli_from_a_mirror_and_the_report_has_all_fifteen_languages(tmp_path):
    # Five a language: a report leaves out groups that are smaller.
    mirror = suite_rows.write_mirror(tmp_path / "mirror", "xnli_multi_", count=5)
    xnli = sorted(name for name in TASKS if re.fullmatch("xnli_multi_[a-z]{2}", name))
    arguments = ["--model", "specfair", "--tasks", "xnli_multi"]
    arguments += ["--model_args", f"baseline=0,records_dir={tmp_path / 'run'}", "--device", "cpu"]
    arguments += ["--batch_size", "8", "--gen_kwargs", "max_gen_toks=8"]
    arguments += ["--metadata", json.dumps({"data_dir": str(mirror)})]
    done = lm_eval(*arguments, "--output_path", str(tmp_path / "results"))

    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").glob("*/results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(results["group_subtasks"]["xnli_multi"]) == xnli
    for name in xnli:
        assert 0 <= results["results"][name]["acc,none"] <= 1
        assert 1 <= results["results"][name]["mean_acceptance_length,none"] <= 5
        assert f"|{name.rsplit('_', 1)[1]}" in done.stdout.replace(" ", "").replace("-", "")
    command = [sys.executable, "-m", "lm_eval_specfair", "report", tmp_path / "run"]
    report = subprocess.run([*command, "--format", "json"], capture_output=True, check=True)
    groups = json.loads(report.stdout)["groups"]
    assert sorted(groups) == [name.rsplit("_", 1)[1] for name in xnli]
    tasks = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["tasks"]
    assert sorted(tasks) == xnli
    assert str(mirror) not in json.dumps(tasks)  # where the rows lie says nothing about a task


@pytest.mark.thorough
@pytest.mark.timeout(1_800)  # a minute or two, unless the machine is busy
def test_the_embedded_pair_runs_xnli_in_all_languages_with_the_quality_of_hf(
    mirror, tmp_path, monkeypatch
):
    from lm_eval.models.huggingface import HFLM

    from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET
    from lm_eval_specfair.harness.model import SpecFairLM
    from lm_eval_specfair.reporting.report.build_report import build_summary

    from support.evaluations import evaluate

    monkeypatch.setenv("SPECFAIR_DATA_DIR", str(mirror))
    # Short answers, and with each way of scoring; the pair's context is 1,024 tokens.
    more = ["mgsm_multi_ja", "xquad_multi_th", "belebele_multi_ell_Grek", "xlsum_multi_hindi"]
    more += ["flores_multi_eng_Latn_rus_Cyrl", "afrimgsm_multi_swa", "xnli_multi_cot_zh"]
    names = ["xnli_multi", *more]
    options = {"limit": 2, "gen_kwargs": {"max_gen_toks": 24}}
    folder = tmp_path / "run"

    ours = evaluate(SpecFairLM(device="cpu", baseline=0, records_dir=str(folder)), names, **options)
    theirs = evaluate(HFLM(str(EMBEDDED_TARGET), device="cpu", dtype="float32"), names, **options)

    xnli = [name for name in TASKS if name.startswith("xnli_multi_") and "_cot" not in name]
    for name in [*xnli, *more]:
        for metric in QUALITY[kind_of(name)]:
            key = f"{metric},none"
            assert ours["results"][name][key] == theirs["results"][name][key], name
        assert 1 <= ours["results"][name]["mean_acceptance_length,none"] <= 5
        assert "overlap,none" not in theirs["results"][name]
    group = ours["results"]["xnli_multi"]
    lengths = [ours["results"][name]["mean_acceptance_length,none"] for name in xnli]
    assert group["mean_acceptance_length,none"] == pytest.approx(sum(lengths) / 15)
    summary = build_summary([folder], min_requests=1)
    assert {task.rsplit("_")[-1] for task in xnli} <= set(summary.groups)
    assert set(summary.groups) == {doc["language"] for doc in _documents(ours)}


def _documents(results) -> list[dict]:
    return [sample["doc"] for task in results["samples"].values() for sample in task]


@pytest.mark.slow
@pytest.mark.timeout(1_800)  # a minute or two, unless the machine is busy
def test_lm_evals_tasks_by_domain_run_from_a_mirror_with_acceptance_beside_their_own_metrics(
    tmp_path, monkeypatch
):

    from lm_eval_specfair.harness.model import SpecFairLM
    from lm_eval_specfair.reporting.report.build_report import build_summary

    write_domains(tmp_path / "mirror")
    monkeypatch.setenv("SPECFAIR_DATA_DIR", str(tmp_path / "mirror"))
    import lm_eval
    from lm_eval.tasks import TaskManager as Manager

    model = SpecFairLM(device="cpu", baseline=0, records_dir=str(tmp_path / "run"))
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=["domains_multi"],
        task_manager=Manager(include_path=str(task_configs_dir())),
        bootstrap_iters=0,
        limit=1,
        gen_kwargs={"max_gen_toks": 16},
    )["results"]

    for name, metric in {
        "gsm8k": "exact_match,flexible-extract",
        "hendrycks_math_algebra": "exact_match,none",
        "code2text_python": "smoothed_bleu_4,none",
        "triviaqa": "exact_match,remove_whitespace",
        "nq_open": "exact_match,remove_whitespace",
        "drop": "f1,none",
        "cnn_dailymail_abisee": "rouge1,none",
        "domains_multi_coqa": "f1,none",
    }.items():
        assert metric in results[name], (name, results[name])
        own_filter = metric.split(",")[1]
        assert 1 <= results[name][f"mean_acceptance_length,{own_filter}"] <= 5
    summary = build_summary([tmp_path / "run"], group_by="domain", min_requests=1)
    assert set(summary.groups) == {"math", "code", "question_answering", "summary", "dialogue"}


def write_domains(folder: Path) -> None:
    """Rows as lm-eval's own tasks read them, one a split."""
    text, question = "The file menu saves a document.", "What saves a document"
    turn = {"input_text": ["Yes", "The file menu"], "span_text": ["Yes", "The file menu"]}
    rows = {
        ("openai/gsm8k", "main"): {"question": "1 + 1?", "answer": "It is 2.\n#### 2"},
        ("EleutherAI/hendrycks_math", "algebra"): {
            "problem": "$1+1$?",
            "solution": r"It is $\boxed{2}$.",
            "level": "Level 1",
            "type": "Algebra",
        },
        ("CM/codexglue_code2text_python", "default"): {
            "code_tokens": ["def", "f", "(", ")", ":", "pass"],
            "docstring_tokens": ["Does", "nothing", "."],
        },
        ("mandarjoshi/trivia_qa", "rc.nocontext"): {
            "question": question,
            "answer": {"aliases": ["file menu"], "value": "file menu"},
        },
        ("google-research-datasets/nq_open", "default"): {
            "question": question,
            "answer": ["file menu"],
        },
        ("EleutherAI/drop", "default"): {
            "section_id": "s",
            "query_id": "q",
            "passage": text,
            "question": f"{question}?",
            "answer": {
                "number": "2",
                "date": {"day": "", "month": "", "year": ""},
                "spans": [],
                "worker_id": "",
                "hit_id": "",
            },
            "validated_answers": {
                key: [] for key in ("number", "date", "spans", "worker_id", "hit_id")
            },
        },
        ("abisee/cnn_dailymail", "3.0.0"): {"article": text, "highlights": text, "id": "1"},
        ("EleutherAI/coqa", "default"): {
            "id": "1",
            "story": text,
            "questions": {"input_text": ["Is it so?", f"{question}?"], "turn_id": [1, 2]},
            "answers": turn,
            "additional_answers": {"0": turn, "1": turn, "2": turn},
        },
    }
    for (dataset, config), row in rows.items():
        for split in ("train", "validation", "test"):
            # gsm8k asks for five examples, which are never the document itself.
            made = [
                {**row, "question": f"{i} + 1?"} if "gsm8k" in dataset else row for i in range(6)
            ]
            suite_rows.write(folder, dataset, config, split, made)


def test_coqa_is_asked_as_in_lm_eval_and_scored_against_every_annotator(tmp_path, monkeypatch):
    write_domains(tmp_path)
    monkeypatch.setenv("SPECFAIR_DATA_DIR", str(tmp_path))
    manager = TaskManager(include_path=str(task_configs_dir()), include_defaults=False)
    task = manager.load(["domains_multi_coqa"])["tasks"]["domains_multi_coqa"]
    doc = task.eval_docs[0]

    assert task.doc_to_text(doc) == (
        "The file menu saves a document.\n\nQ: Is it so?\n\nA: Yes\n\n"
        "Q: What saves a document?\n\nA:"
    )
    other = {"input_text": ["No", "A menu bar"]}
    doc = {**doc, "additional_answers": {"0": other, "1": other}}
    assert score(task, doc, " the file menu.\nQ: And?") == {"exact_match": 1.0, "f1": 1.0}
    assert score(task, doc, "menu bar") == {"exact_match": 1.0, "f1": 1.0}
    assert score(task, doc, "menu")["f1"] == pytest.approx(2 / 3)
    assert score(task, doc, "Yes") == {"exact_match": 0.0, "f1": 0.0}
