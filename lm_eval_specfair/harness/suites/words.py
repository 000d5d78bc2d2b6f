"""The words by which answers are recognised, from `answer_words.json`. Knows no scoring.

One place for both sides: the prompts in `task_configs/` are generated from these tables
(`experiments/suites/`), and `answers` looks for the same words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The label words of natural language inference in one language.

    Attributes:
        words: For entailment, neutral and contradiction, the order of the data sets' labels.
        answer: The word that stands before the label, without its colon.
        others: Further spellings that models use, each with its index into `words`.
    """

    words: Sequence[str]
    answer: str
    others: Mapping[str, int] = field(default_factory=dict)


_TABLES = json.loads(Path(__file__).with_name("answer_words.json").read_text(encoding="utf-8"))

# BCP-47 tag -> labels. The first fifteen are XNLI's languages, the rest IrokoBench's; those whose
# prompt is English have "Answer" there.
LABELS: dict[str, Labels] = {tag: Labels(**labels) for tag, labels in _TABLES["labels"].items()}

# BCP-47 tag -> what stands before the number at the end of MGSM's own solutions, without the
# number. As the exemplars of Shi et al. 2022 (arXiv:2210.03057) and lm-eval's patterns have it.
ANSWER_PHRASES: dict[str, list[str]] = _TABLES["answer_phrases"]

# Languages in which "a" is a word that begins sentences -> words that follow it only where it is
# an option ("A because ..."). English's hold everywhere, since models answer in it too.
WORDS_AFTER_OPTION_A: dict[str, str] = _TABLES["words_after_option_a"]

# Language -> words around an option's letter, divided by "|": what denies the option that follows
# (`not_before`) or precedes (`not_after`), what may stand between (`between`), what joins two
# options (`or`), and what says that one is right (`correct`). English's hold everywhere.
OPTION_WORDS: dict[str, dict[str, str]] = _TABLES["option_words"]

# Language -> words that stand for a minus sign, divided by "|". English's hold everywhere.
MINUS_WORDS: dict[str, str] = _TABLES["minus_words"]
