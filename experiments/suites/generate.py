"""Write the YAMLs of the multilingual suites from their tables: a file per task and per group.

    python experiments/suites/generate.py [--check]

What all languages of a suite share is in its suffix-less template, written by hand. A test checks
that the committed files are what comes out here.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where the package is not installed

from suite_languages import (
    AFRIMGSM,
    AFRIXNLI,
    BELEBELE,
    CORE,
    FLORES,
    GLOBAL_MMLU,
    MGSM,
    MLQA,
    TYDIQA,
    XLSUM,
    XNLI,
    XQUAD,
    name_of,
    tag_of,
)
from suite_prompts import INFERENCE, MATH, QA

from lm_eval_specfair.harness.suites.words import LABELS

FOLDER = Path(__file__).resolve().parents[2] / "task_configs"
VERSION = 1.0
ACCEPTANCE = ("mean_acceptance_length", "conditional_acceptance_rate", "overlap")

Task = dict[str, Any]


def files() -> dict[str, str]:
    """All generated files: path below `task_configs/` -> content."""
    found: dict[str, str] = {}
    for folder, group, metrics, tasks in groups():
        for task in tasks:
            found[f"{folder}/{task['task']}.yaml"] = _dump(task)
        found[f"{folder}/{group}.yaml"] = _dump(_group(group, metrics, tasks))
    return found


def groups() -> Iterator[tuple[str, str, tuple[str, ...], list[Task]]]:
    """Each group: its folder, its name, its quality metrics and its tasks."""
    yield "xnli_multi", "xnli_multi", ("acc",), [_xnli(tag) for tag in XNLI]
    yield "xnli_multi", "xnli_multi_cot", ("acc",), [_xnli(tag, cot=True) for tag in XNLI]
    yield "mgsm_multi", "mgsm_multi", ("exact_match",), [_mgsm(tag) for tag in MGSM]
    qa = ("exact_match", "f1")
    yield "xquad_multi", "xquad_multi", qa, [_qa("xquad", t, f"xquad.{t}") for t in XQUAD]
    yield "mlqa_multi", "mlqa_multi", qa, [_qa("mlqa", t, f"mlqa.{t}.{t}") for t in MLQA]
    yield "tydiqa_multi", "tydiqa_multi", qa, [_tydiqa(tag, name) for tag, name in TYDIQA.items()]
    yield "belebele_multi", "belebele_multi", ("acc",), [_belebele(code) for code in BELEBELE]
    yield (
        "global_mmlu_multi",
        "global_mmlu_multi",
        ("acc",),
        [_global_mmlu(tag) for tag in GLOBAL_MMLU],
    )
    xlsum = [_xlsum(config) for config in XLSUM]
    yield "xlsum_multi", "xlsum_multi", ("chrf", "chrf_official", "rouge_l"), xlsum
    out = [_flores(code, config, into="language") for code, config in FLORES.items()]
    back = [_flores(code, config, into="english") for code, config in FLORES.items()]
    yield "flores_multi", "flores_multi", ("chrf++", "chrf++_official"), [*out, *back]
    iroko = "irokobench_multi"
    yield iroko, "afrixnli_multi", ("acc",), [_afrixnli(code) for code in AFRIXNLI]
    cot = [_afrixnli(code, cot=True) for code in AFRIXNLI]
    yield iroko, "afrixnli_multi_cot", ("acc",), cot
    yield iroko, "afrimgsm_multi", ("exact_match",), [_afrimgsm(code) for code in AFRIMGSM]
    metrics = ("acc", "chrf++", "chrf++_official", "chrf", "chrf_official", "rouge_l")
    yield "specfair_core", "specfair_core", metrics, list(_core())


def _task(suite: str, code: str, tag: str, **more: Any) -> Task:
    """What each task says first, and its metadata at the end."""
    metadata = {"version": VERSION, "suite": suite, "language": tag, **more.pop("metadata", {})}
    head = {"include": f"_{suite}_yaml", "task": f"{suite}_{code}", "task_alias": code}
    return {**head, **more, "metadata": metadata}


def _group(group: str, metrics: tuple[str, ...], tasks: list[Task]) -> Task:
    return {
        "group": group,
        "task": [task["task"] for task in tasks],
        "aggregate_metric_list": [
            {"metric": metric, "aggregation": "mean", "weight_by_size": False}
            for metric in (*metrics, *ACCEPTANCE)
        ],
        "metadata": {"version": VERSION},
    }


# ------------------------------------------------------------------ inference


def _xnli(tag: str, *, cot: bool = False) -> Task:
    suite = "xnli_multi_cot" if cot else "xnli_multi"
    return _task(suite, tag, tag, dataset_name=tag, **_inference(tag, cot=cot))


def _inference(tag: str, *, cot: bool) -> Task:
    text, claim, question, possible, request, reason = INFERENCE[tag]
    labels, colon = LABELS[tag], _colon(tag)
    words = " / ".join(labels.words)
    space = "" if colon == "：" else " "
    opening = (
        f"{text}{colon}{space}{{{{premise}}}}\n{claim}{colon}{space}{{{{hypothesis}}}}\n{question}"
    )
    answer = f"{labels.answer}{colon}"
    if cot:
        shape = f"{reason}{colon}{space}… {answer}{space}{words}"
        prompt = f"{opening}{space}{request}\n{shape}\n{reason}{colon}"
    else:
        prompt = f"{opening}{space}{possible}{colon}{space}{words}\n{answer}"
    label = f"{{{{{list(labels.words)}[label]}}}}"
    # The data have no reasons: an example shows the shape, so that its label counts as an answer.
    example = {"fewshot_config": {"doc_to_target": f"… {answer}{space}{label}"}} if cot else {}
    return {
        "doc_to_text": prompt,
        "doc_to_target": label,
        "target_delimiter": space,
        **example,
    }


def _afrixnli(code: str, *, cot: bool = False) -> Task:
    suite = "afrixnli_multi_cot" if cot else "afrixnli_multi"
    tag = tag_of(code)
    shared = _inference(tag, cot=cot) if tag in INFERENCE else _inference_in_english(tag, cot=cot)
    return _task(suite, code, tag, dataset_name=code, **shared)


def _inference_in_english(tag: str, *, cot: bool) -> Task:
    """IrokoBench's English request, with label words of the language."""
    yes, maybe, no = LABELS[tag].words
    asked = (
        "Please identify whether the premise entails or contradicts the hypothesis in the "
        "following premise and hypothesis. The answer is one word of "
        f"{name_of(tag)}: {yes} (entailment), {maybe} (neutral) or {no} (contradiction)."
    )
    if cot:
        asked += (
            f" First give the reason in one sentence in {name_of(tag)}, then the answer.\n"
            f"Reason: … Answer: {yes} / {maybe} / {no}"
        )
    end = "Reason:" if cot else "Answer:"
    given = "Premise: {{premise}}\nHypothesis: {{hypothesis}}"
    label = f"{{{{{list(LABELS[tag].words)}[label]}}}}"
    example = {"fewshot_config": {"doc_to_target": f"… Answer: {label}"}} if cot else {}
    return {"doc_to_text": f"{asked}\n\n{given}\n{end}", "doc_to_target": label, **example}


def _colon(tag: str) -> str:
    return {"fr": " :", "zh": "："}.get(tag, ":")


# ------------------------------------------------------------------ word problems


def _mgsm(tag: str) -> Task:
    return _task("mgsm_multi", tag, tag, dataset_name=tag, **_word_problem(*MATH[tag]))


def _afrimgsm(code: str) -> Task:
    tag = tag_of(code)
    labels = MATH.get(tag) or ("Question:", f"Step-by-Step Answer in {name_of(tag)}:")
    return _task("afrimgsm_multi", code, tag, dataset_name=code, **_word_problem(*labels))


def _word_problem(question: str, answer: str) -> Task:
    # Rows of the train split, for few-shot prompts, bring their own "Question:" and "Answer:".
    asked = f"{{% if answer is none %}}{question} {{% endif %}}{{{{question}}}}\n{answer}"
    target = (
        "{% if answer is none %}{{answer_number}}"
        "{% else %}{{answer | regex_replace('^[^:：]*[:：] *', '')}}{% endif %}"
    )
    return {
        "doc_to_text": asked,
        "doc_to_target": target,
        "generation_kwargs": {
            "until": [question, "</s>", "<|im_end|>"],
            "do_sample": False,
            "max_gen_toks": 512,
        },
    }


# ------------------------------------------------------------------ reading


def _qa(suite: str, tag: str, config: str, **more: Any) -> Task:
    context, question, answer = QA[tag]
    prompt = f"{context}: {{{{context}}}}\n\n{question}: {{{{question}}}}\n\n{answer}:"
    return _task(f"{suite}_multi", tag, tag, dataset_name=config, doc_to_text=prompt, **more)


def _tydiqa(tag: str, name: str) -> Task:
    return _qa("tydiqa", tag, "secondary_task", dataset_kwargs={"id_prefix": f"{name}-"})


def _belebele(code: str) -> Task:
    tag = tag_of(code)
    options = "".join(f"{letter}: {{{{mc_answer{i}}}}}\n" for i, letter in enumerate("ABCD", 1))
    asked = f"P: {{{{flores_passage}}}}\nQ: {{{{question.strip()}}}}\n{options}{_letter(tag)}"
    return _task("belebele_multi", code, tag, dataset_name=code, doc_to_text=asked)


def _global_mmlu(tag: str) -> Task:
    options = "".join(f"{letter}. {{{{option_{letter.lower()}}}}}\n" for letter in "ABCD")
    asked = f"{{{{question.strip()}}}}\n{options}{_letter(tag)}"
    return _task("global_mmlu_multi", tag, tag, dataset_name=tag, doc_to_text=asked)


def _letter(tag: str) -> str:
    return (
        "Give the letter of the right answer, then the reason in one sentence in "
        f"{name_of(tag)}.\nAnswer:"
    )


# ------------------------------------------------------------------ writing


def _xlsum(config: str) -> Task:
    tag = tag_of(config)
    # The request comes last: a text that is too long for the model loses its beginning.
    asked = f"{{{{text}}}}\n\nSummary of this article in {name_of(tag)}, in one or two sentences:"
    return _task("xlsum_multi", config, tag, dataset_name=config, doc_to_text=asked)


def _flores(code: str, config: str, *, into: str) -> Task:
    tag = tag_of(code)
    pair = (("eng_Latn", "en"), (code, tag))
    (source_code, source), (target_code, target) = pair if into == "language" else pair[::-1]
    asked = f"{name_of(source)} sentence: {{{{source}}}}\n{name_of(target)} sentence:"
    return _task(
        "flores_multi",
        f"{source_code}_{target_code}",
        target,
        dataset_name=config,
        dataset_kwargs={"pair_with": "eng_Latn", "into": into},
        doc_to_text=asked,
        metadata={"source_language": source, "other_language": tag},
    )


# ------------------------------------------------------------------ the selection


def _core() -> Iterator[Task]:
    """Three tasks a language: reading, translation into it, a summary."""
    for name, (code, config) in CORE.items():
        yield _selected(_belebele(code), "belebele", name)
        if name == "en":  # FLORES pairs English with the others: here French
            translation = _flores("fra_Latn", FLORES["fra_Latn"], into="english")
        else:
            translation = _flores(code, FLORES[code], into="language")
        yield _selected(translation, "flores", name)
        yield _selected(_xlsum(config), "xlsum", name)


def _selected(task: Task, kind: str, name: str) -> Task:
    suite = f"{kind}_multi"
    return {
        **task,
        "include": f"../{suite}/_{suite}_yaml",
        "task": f"specfair_core_{kind}_{name}",
        "task_alias": f"{kind} {name}",
        "dataset_kwargs": {**task.get("dataset_kwargs", {}), "documents": 30},
        "metadata": {**task["metadata"], "suite": "specfair_core"},
    }


# ------------------------------------------------------------------ files


class _Dumper(yaml.SafeDumper):
    """Prompts as blocks, so that they read as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(content: Task) -> str:
    text = yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10_000)
    return f"# Generated by experiments/suites/generate.py\n{text}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python experiments/suites/generate.py --check",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, list the files that differ; exit status 1 if there are any",
    )
    check = parser.parse_args().check
    wanted = files()
    folders = {path.split("/")[0] for path in wanted}
    found = {
        str(path.relative_to(FOLDER)): path.read_text(encoding="utf-8")
        for folder in folders
        for path in (FOLDER / folder).glob("*.yaml")
    }
    different = sorted(
        path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)
    )
    if check:
        print("\n".join(different))
        return int(bool(different))
    for path in different:
        file = FOLDER / path
        if path in wanted:
            file.parent.mkdir(exist_ok=True)
            file.write_text(wanted[path], encoding="utf-8")
        else:
            file.unlink()
    print(f"{len(wanted)} files, {len(different)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
