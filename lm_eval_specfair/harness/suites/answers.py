"""Quality of generated answers, named by the suites' YAMLs as `process_results`. No torch.

Each function takes a document, with its `language`, and the generated text, and returns metric ->
value. 1 is right and 0 wrong, but for chrF, which runs from 0 to 100 as sacreBLEU reports it.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import regex
from sacrebleu.metrics.chrf import CHRF

from lm_eval_specfair.harness.suites.numbers import numbers_in
from lm_eval_specfair.harness.suites.option_letters import letter_in
from lm_eval_specfair.harness.suites.text import fold, normal_form, tokens
from lm_eval_specfair.harness.suites.words import ANSWER_PHRASES, LABELS
from lm_eval_specfair.text_lines import first_line

Doc = dict[str, Any]
Pair = tuple[str, str]

# ------------------------------------------------------------------ labels of inference


def label(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """XNLI, answered with the label word: the first one in the first line counts."""
    return {"acc": float(_label_in(first_line(results[0]), doc["language"]) == doc["label"])}


def label_after_reason(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """XNLI, reason first: the label word after the last "Answer:" counts, and no other.

    Reasons are full of words such as "no", so a text that names no answer is wrong.
    """
    language = doc["language"]
    mark = regex.escape(fold(LABELS[language].answer, language))
    pieces = regex.split(rf"{mark}[\s*_]*:", fold(results[0], language))
    index = _label_in(pieces[-1], language) if len(pieces) > 1 else None
    return {"acc": float(index == doc["label"])}


def _label_in(text: str, language: str) -> int | None:
    pattern, places = _label_pattern(language)
    match = pattern.search(fold(text, language))
    return None if match is None else places[match[0]]


@functools.cache
def _label_pattern(language: str) -> tuple["regex.Pattern[str]", dict[str, int]]:
    labels = LABELS[language]
    spellings = {word: i for i, word in enumerate(labels.words)} | dict(labels.others)
    places = {fold(word, language): i for word, i in spellings.items()}
    # The longest first: "Có" begins "Có thể", and "ใช่" ends "ไม่ใช่".
    words = "|".join(regex.escape(word) for word in sorted(places, key=len, reverse=True))
    if language not in ("th", "zh"):  # elsewhere a label is a word of its own
        words = rf"(?<![\p{{L}}\p{{M}}\p{{N}}])(?:{words})(?![\p{{L}}\p{{M}}\p{{N}}])"
    return regex.compile(words), places


# ------------------------------------------------------------------ letters of options


def belebele_letter(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Belebele, answered with an option's letter."""
    right = "ABCD"[int(doc["correct_answer_num"]) - 1]
    return {"acc": float(letter_in(results[0], doc["language"]) == right)}


def mmlu_letter(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Global MMLU, answered with an option's letter."""
    return {"acc": float(letter_in(results[0], doc["language"]) == doc["answer"])}


# ------------------------------------------------------------------ numbers


def number(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """MGSM: the number after the language's "The answer is", else the last one of the text."""
    right = Decimal(str(doc["answer_number"]))
    text, language = unicodedata.normalize("NFC", results[0]), doc["language"]
    phrases = list(_answer_phrases(language).finditer(text))
    after = numbers_in(text[phrases[-1].start() :], language) if phrases else []
    counted = after[:1] or numbers_in(text, language)[-1:]
    return {"exact_match": float(any(right in values for values in counted))}


@functools.cache
def _answer_phrases(language: str) -> "regex.Pattern[str]":
    phrases = (*ANSWER_PHRASES.get(language, ()), *ANSWER_PHRASES["en"])
    return regex.compile("|".join(map(regex.escape, phrases)), regex.IGNORECASE)


# ------------------------------------------------------------------ extractive answers


def extraction(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """XQuAD, MLQA, TyDiQA: exact match and F1, the best over the references."""
    return _overlap(results[0], doc["answers"]["text"], doc["language"])


def conversation(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """CoQA: the last turn's answer, against what each of the annotators gave."""
    others = [turns["input_text"][-1] for turns in (doc["additional_answers"] or {}).values()]
    return _overlap(results[0], [doc["answers"]["input_text"][-1], *others], doc["language"])


def _overlap(text: str, answers: Iterable[str], language: str) -> dict[str, float]:
    given = tokens(first_line(text), language)
    references = [tokens(answer, language) for answer in answers]
    return {
        "exact_match": float(any(given == reference for reference in references)),
        "f1": max(_f1(given, reference) for reference in references),
    }


def _f1(given: list[str], reference: list[str]) -> float:
    """The harmonic mean of precision and recall over tokens, as in SQuAD and MLQA."""
    same = sum((Counter(given) & Counter(reference)).values())
    if not same:
        return float(given == reference)  # both may be empty
    return 2 * same / (len(given) + len(reference))


# ------------------------------------------------------------------ summaries and translations


def summary(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """XL-Sum: chrF over the corpus, ROUGE-L (F1) averaged over documents."""
    text, language = results[0].strip(), doc["language"]
    score = _rouge(language).score(doc["summary"], text)["rougeL"]
    return {**_pairs("chrf", doc["summary"], text, language), "rouge_l": score.fmeasure}


def translation(doc: Doc, results: Sequence[str]) -> dict[str, Pair]:
    """FLORES: chrF++ over the corpus."""
    return _pairs("chrf++", doc["target"], first_line(results[0]), doc["language"])


def _pairs(metric: str, reference: str, text: str, language: str) -> dict[str, Pair]:
    """Reference and text in one spelling, and as they are for the official score."""
    return {
        metric: (normal_form(reference, language), normal_form(text, language)),
        f"{metric}_official": (reference, text),
    }


def corpus_chrf(pairs: Iterable[Pair]) -> float:
    """Corpus chrF of (reference, text) pairs, 0 to 100: Popović 2015, with sacreBLEU's defaults."""
    return _corpus_score(CHRF(), pairs)


def corpus_chrf_plus_plus(pairs: Iterable[Pair]) -> float:
    """Corpus chrF++ (word pairs count too), 0 to 100: Popović 2017, with sacreBLEU's defaults."""
    return _corpus_score(CHRF(word_order=2), pairs)


def _corpus_score(metric: CHRF, pairs: Iterable[Pair]) -> float:
    references, texts = zip(*pairs, strict=True)
    return float(metric.corpus_score(list(texts), [list(references)]).score)


class _Tokenizer:
    """What `rouge_score` asks for; its own keeps nothing but ASCII letters and digits."""

    def __init__(self, language: str) -> None:
        self.language = language

    def tokenize(self, text: str) -> list[str]:
        return tokens(text, self.language, drop_articles=False)


@functools.cache
def _rouge(language: str) -> Any:
    from rouge_score import rouge_scorer  # brings nltk, whose import takes longer than all suites'

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Tokenizer(language))
