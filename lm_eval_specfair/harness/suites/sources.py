"""The data sets behind the suites, as they are on the hub: names, columns, splits, licences.

One place for what the loader checks, the data cards say and the tests build rows from. Nothing here
is downloaded. Where a fact comes from is in `known_from`: lm-eval's task files, the data set's own
card or loading script.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set on the hub.

    Attributes:
        hub_id: Its name there, and the folder of a mirror.
        columns: Column -> type, in the words of `datasets`; a class label lists its names.
        read: The columns that tasks read: what a mirror made by hand has to hold.
        shared: Columns that rows about one paragraph share, or that are the answer: few-shot
            examples differ from the document in all of them.
        splits: Those that the suites read: what is evaluated, then what few-shot examples are from.
        is_script: Whether `main` holds a loading script, which datasets 4 and later refuse.
        is_gated: Whether the hub asks for an account that has accepted the terms.
        values: What a text column may hold, where it is one of a few.
        nullable: Columns that may be null.
        licence: As its card names it.
        citation: Author, year, and where the paper is.
        known_from: Where columns, configurations and values were read.
    """

    hub_id: str
    columns: dict[str, str]
    read: tuple[str, ...]
    shared: tuple[str, ...]
    splits: tuple[str, ...]
    licence: str
    citation: str
    known_from: str
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    is_script: bool = False
    is_gated: bool = False


_SQUAD = {
    "id": "string",
    "context": "string",
    "question": "string",
    "answers": "{text: list[string], answer_start: list[int32]}",
}
_INFERENCE = {
    "premise": "string",
    "hypothesis": "string",
    "label": "class(entailment, neutral, contradiction)",
}
# `answer` and `equation_solution` are null in the test split.
_WORD_PROBLEM = {
    "question": "string",
    "answer": "string",
    "answer_number": "int32",
    "equation_solution": "string",
}

_OPTIONS = tuple(f"mc_answer{i}" for i in (1, 2, 3, 4))

_ALL = (
    Source(
        hub_id="facebook/xnli",
        columns=_INFERENCE,
        read=tuple(_INFERENCE),
        shared=("premise",),
        splits=("test", "validation"),
        licence="CC BY-NC 4.0",
        citation="Conneau et al. 2018, arXiv:1809.05053",
        known_from="lm-eval tasks/xnli; the data set's card",
    ),
    Source(
        hub_id="juletxara/mgsm",
        columns=_WORD_PROBLEM,
        read=("question", "answer", "answer_number"),
        nullable=("answer",),
        shared=("question",),
        splits=("test", "train"),
        licence="CC BY-SA 4.0",
        citation="Shi et al. 2022, arXiv:2210.03057",
        known_from="lm-eval tasks/mgsm; the loading script mgsm.py",
        is_script=True,
    ),
    Source(
        hub_id="google/xquad",
        columns=_SQUAD,
        read=("context", "question", "answers"),
        shared=("context",),
        splits=("validation",),
        licence="CC BY-SA 4.0",
        citation="Artetxe et al. 2020, arXiv:1910.11856",
        known_from="lm-eval tasks/xquad; the data set's card",
    ),
    Source(
        hub_id="facebook/mlqa",
        columns=_SQUAD,
        read=("context", "question", "answers"),
        shared=("context",),
        splits=("test", "validation"),
        licence="CC BY-SA 3.0",
        citation="Lewis et al. 2020, arXiv:1910.07475",
        known_from="lm-eval tasks/mlqa; the loading script mlqa.py",
        is_script=True,
    ),
    Source(
        hub_id="google-research-datasets/tydiqa",
        columns={"title": "string", **_SQUAD},
        read=("id", "context", "question", "answers"),
        shared=("context",),
        splits=("validation",),
        licence="Apache-2.0",
        citation="Clark et al. 2020, arXiv:2003.05002",
        known_from="lm-eval tasks/tydiqa (the languages are told apart by `id`); the card",
    ),
    Source(
        hub_id="facebook/belebele",
        columns={
            "link": "string",
            "question_number": "int64",
            "flores_passage": "string",
            "question": "string",
            **dict.fromkeys(_OPTIONS, "string"),
            "correct_answer_num": "string",
            "dialect": "string",
            "ds": "timestamp[s]",
        },
        read=("flores_passage", "question", *_OPTIONS, "correct_answer_num"),
        values={"correct_answer_num": ("1", "2", "3", "4")},
        shared=("flores_passage",),
        splits=("test",),
        licence="CC BY-SA 4.0",
        citation="Bandarkar et al. 2024, arXiv:2308.16884",
        known_from="lm-eval tasks/belebele; the data set's card",
    ),
    Source(
        hub_id="CohereLabs/Global-MMLU-Lite",
        columns={
            "sample_id": "string",
            "subject": "string",
            "subject_category": "string",
            "question": "string",
            "option_a": "string",
            "option_b": "string",
            "option_c": "string",
            "option_d": "string",
            "answer": "string",
            "required_knowledge": "string",
            "time_sensitive": "string",
            "reference": "string",
            "culture": "string",
            "region": "string",
            "country": "string",
            "cultural_sensitivity_label": "string",
            "is_annotated": "bool",
        },
        read=("question", "option_a", "option_b", "option_c", "option_d", "answer"),
        values={"answer": ("A", "B", "C", "D")},
        shared=("question",),
        splits=("test", "dev"),
        licence="Apache-2.0",
        citation="Singh et al. 2024, arXiv:2412.03304",
        known_from="lm-eval tasks/global_mmlu; the data set's card (version 1.0: 15 languages)",
    ),
    Source(
        hub_id="csebuetnlp/xlsum",
        columns={
            "id": "string",
            "url": "string",
            "title": "string",
            "summary": "string",
            "text": "string",
        },
        read=("summary", "text"),
        shared=("text", "summary"),
        splits=("test",),
        licence="CC BY-NC-SA 4.0",
        citation="Hasan et al. 2021, arXiv:2106.13822",
        known_from="lm-eval tasks/afrobench/xlsum; the loading script xlsum.py",
        is_script=True,
    ),
    Source(
        hub_id="openlanguagedata/flores_plus",
        columns={
            "id": "int64",
            "iso_639_3": "string",
            "iso_15924": "string",
            "glottocode": "string",
            "variant": "string",
            "text": "string",
            "url": "string",
            "domain": "string",
            "topic": "string",
            "has_image": "string",
            "has_hyperlink": "string",
            "last_updated": "string",
            "split": "string",
        },
        read=("id", "text"),
        shared=("source", "target"),  # as `task.paired` makes them
        splits=("devtest", "dev"),
        licence="CC BY-SA 4.0",
        citation="NLLB Team 2022, arXiv:2207.04672; kept by the Open Language Data Initiative",
        known_from="the data set's card; public code that joins its configurations by `id`",
        is_gated=True,
    ),
    Source(
        hub_id="masakhane/afrixnli",
        columns=_INFERENCE,
        read=tuple(_INFERENCE),
        shared=("premise",),
        splits=("test", "validation"),
        licence="Apache-2.0",
        citation="Adelani et al. 2025 (IrokoBench), arXiv:2406.03368",
        known_from="lm-eval tasks/afrixnli",
    ),
    Source(
        hub_id="masakhane/afrimgsm",
        columns=_WORD_PROBLEM,
        read=("question", "answer", "answer_number"),
        nullable=("answer",),
        shared=("question",),
        splits=("test", "train"),
        licence="Apache-2.0",
        citation="Adelani et al. 2025 (IrokoBench), arXiv:2406.03368",
        known_from="lm-eval tasks/afrimgsm",
    ),
)

SOURCES: dict[str, Source] = {source.hub_id: source for source in _ALL}
