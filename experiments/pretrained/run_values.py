"""What run.py left, as values by language: one `Measured` for each target, data set and drafter."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from run import DRAFTERS, FITTED, ORDER, OTHER_TOKENIZER, is_finished
from within import Document

from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.order_stability import ResampledValues, resampled_values
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.records import Record
from lm_eval_specfair.reporting.report.answer_quality import find_samples, read_quality
from lm_eval_specfair.reporting.report.build_report import build_summary
from lm_eval_specfair.reporting.runs import open_runs

QUALITY = {"mgsm": "exact_match", "xquad": "f1"}
OF_TEXTS = ("repeated_4grams", "other_script_letters", "bytes_per_token", "answer_quality")
OF_DRAFTERS = (
    "conditional_acceptance_rate", "mean_acceptance_length", "steps_per_kilobyte", "overlap",
    "accepted_bytes_share",
)  # fmt: skip
OF_REFERENCES = (
    "scored_agreement", "scored_overlap", "bits_per_byte", "drafter_bits_per_byte",
    "scored_bytes_per_token",
)  # fmt: skip
METRICS = (*OF_TEXTS, *OF_DRAFTERS, *OF_REFERENCES)


@dataclass(kw_only=True)
class Measured:
    """A drafter on a data set of a target.

    Attributes:
        kind: The drafter without its target's name: `4bit`, `prompt_lookup`.
        folders: Of the replay, and of the references that the same pair read, if they were.
        summary: Of both together.
        values: By metric, resampled.
        documents: Each text, with its score where answers are scored.
    """

    target: str
    data: str
    drafter: str
    kind: str
    folders: list[Path]
    summary: Summary
    values: dict[str, ResampledValues] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    @property
    def is_scored(self) -> bool:
        return any(one.score is not None for one in self.documents)


def measured(work: Path) -> list[Measured]:
    """Everything that is finished."""
    found = []
    for target, drafters in DRAFTERS.items():
        for data in ORDER:
            folder = work / target / data
            for where, drafter in (
                *(("replays", one) for one in ("prompt_lookup", *drafters)),
                *(("other-tokenizer", one) for one in OTHER_TOKENIZER.get(target, ())),
            ):
                halves = [folder / f"{where}-{half}" / drafter for half in ("odd", "even")]
                whole = [folder / where / drafter]
                done = (
                    whole if is_finished(whole[0]) else [one for one in halves if is_finished(one)]
                )
                if done:
                    found.append(_read(work, target, data, drafter, done))
            for kind in FITTED:
                halves = [folder / kind / half for half in ("even", "odd")]
                if all(map(is_finished, halves)):
                    found.append(_read(work, target, data, kind, halves))
    if not found:
        sys.exit(f"{work} holds no finished replay: run.py makes them")
    return found


def _read(work: Path, target: str, data: str, drafter: str, replays: list[Path]) -> Measured:
    folders = list(replays)
    # References of the same documents where there are some; the Declaration has all languages.
    for where in (data, data.removesuffix("-sampled"), "declaration"):
        references = work / target / where / "references" / drafter
        if is_finished(references):
            folders.append(references)
            break
    samples = work / target / data / "samples"
    has_quality = data in QUALITY and samples.exists()
    summary = build_summary(
        folders,
        samples=samples if has_quality else None,
        quality_metric=QUALITY[data] if has_quality else None,
    )
    aggregator = Aggregator("language")
    quality = read_quality(find_samples(folders, samples), QUALITY[data]) if has_quality else None
    documents = []
    for reader in open_runs(folders):
        for record, facts in reader.records():
            if quality is not None:
                quality.join(record)
            aggregator.add(record, facts, run=str(reader.folder))
            if reader.folder in replays:
                scores = {} if quality is None else quality.scores
                documents.append(document_of(record, scores.get((record.task, record.doc_id))))
    aggregator.quality = {} if quality is None else quality.scores
    return Measured(
        target=target,
        data=data,
        drafter=drafter,
        kind=drafter.removeprefix(f"{target}-"),
        folders=folders,
        summary=summary,
        values=resampled_values(aggregator.aggregate(5), METRICS),
        documents=documents,
    )


def document_of(record: Record, score: float | None) -> Document:
    """Tasks of this experiment end in their language."""
    return Document(
        language=record.task.rpartition("_")[2],
        num_examined=record.num_examined_draft_tokens,
        num_accepted=record.num_accepted_draft_tokens,
        is_cut_off=record.finish_reason == "length",
        is_empty=not (record.generated_text or "").strip(),
        repetition=(record.num_repeated_4grams or 0) / record.num_4grams
        if record.num_4grams
        else None,
        score=score,
    )
