"""`specfair prune`: a drafter that drafts some tokens only, which cover each group's text."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_eval_specfair.decoding.loading import read_configuration
from lm_eval_specfair.decoding.vocabularies.draft_vocabulary_file import (
    DRAFT_VOCABULARY,
    write_draft_vocabulary,
)
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import staged
from lm_eval_specfair.fitting.fit_texts import FitText, read_fit_texts
from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.arrays import Array
from lm_eval_specfair.replays.replay_models import load_tokenizer, resolved, target_of_runs
from lm_eval_specfair.replays.sources.document_share import DocumentShare
from lm_eval_specfair.reporting.tables import Cell, Table, row_of
from lm_eval_specfair.training.heads.draft_vocabulary import DraftIds, choose_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """A drafter with a draft vocabulary.

    Attributes:
        folder: Where it is.
        chosen: Its tokens, and the share of each group's text that they cover.
        groups: Their names, in the order of `chosen.coverage`.
        frequent: The coverage that the most frequent tokens of all groups would have.
        num_tokens: Of each group's texts.
        vocab_size: Of the whole drafter.
    """

    folder: Path
    chosen: DraftIds
    groups: Sequence[str]
    frequent: Array
    num_tokens: Sequence[int]
    vocab_size: int
    group_by: str

    def table(self) -> str:
        """A row for each group, the worst covered first, for a terminal."""
        order = np.argsort(self.chosen.coverage, kind="stable")
        rows = [
            row_of(
                display_name(self.groups[place], self.group_by),
                Cell(f"{self.num_tokens[place]:,}", self.num_tokens[place]),
                Cell(f"{coverage:.1%}", float(coverage)),
                Cell(f"{self.frequent[place]:.1%}", float(self.frequent[place])),
            )
            for place, coverage in ((int(p), self.chosen.coverage[p]) for p in order)
        ]
        size = len(self.chosen.ids)
        return Table(
            title=f"Share of each group's tokens among {size:,} of {self.vocab_size:,}",
            header=["group", "tokens", "covered", "by the most frequent"],
            sections=[rows],
        ).terminal()

    def notes(self) -> list[str]:
        """What a user must know to use it, in whole sentences."""
        return [
            f"{self.chosen.forced:,} of the {len(self.chosen.ids):,} tokens were asked for by the "
            "floor of coverage; the others are the most frequent ones.",
            f"A run takes it as drafter={self.folder}. Other engines read the folder as the whole "
            f"drafter: {DRAFT_VOCABULARY} is this package's.",
        ]


def prune(
    drafter: str,
    sources: Sequence[Path],
    output: Path,
    *,
    draft_vocabulary: int,
    coverage_floor: float = 0.0,
    group_by: str = "language",
    documents: str = "all",
    tokenizer: str | None = None,
) -> Pruned:
    """Copy a drafter's folder, with the tokens that it is to draft.

    Args:
        drafter: Folder of a model with the target's tokenizer, or an embedded one's name.
        sources: The target's texts: whatever `fit` reads.
        output: New folder.
        draft_vocabulary: Number of tokens.
        coverage_floor: The share of each group's tokens that must be among them.
        group_by: What makes a group.
        documents: Which are read (`DocumentShare`).
        tokenizer: Of the target, where sources hold text and no ids.

    Raises:
        ConfigError: If the drafter is no folder, the sources cannot be read, or so few tokens
            cannot cover as much.
    """
    folder = Path(resolved(drafter))
    if not folder.is_dir():
        raise ConfigError(
            f"--drafter must be a folder with config.json and *.safetensors, got {drafter!r:.200}; "
            "download a model of the hub first (hf download)"
        )
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; name a new folder with -o")
    config = read_configuration(str(folder), "drafter")
    vocab_size = int(config.get_text_config(decoder=True).vocab_size)
    if not 1 <= draft_vocabulary <= vocab_size:
        raise ConfigError(
            f"--draft-vocabulary must be from 1 to the drafter's {vocab_size} tokens, got "
            f"{draft_vocabulary}"
        )
    if not 0 <= coverage_floor <= 1:
        raise ConfigError(f"--coverage-floor must be from 0 to 1, got {coverage_floor:g}")
    loaded = load_tokenizer(tokenizer or target_of_runs(sources), None, [drafter])
    share = DocumentShare.read(documents)
    texts = [
        text
        for source in sources
        for text in read_fit_texts(source, loaded, group_by=group_by, documents=share)
    ]
    groups, counts = _counts(texts, vocab_size)
    if not groups:
        raise ConfigError(f"no text is left of documents {documents}: expected some to count")
    chosen = choose_ids(counts, draft_vocabulary, floor=coverage_floor, names=groups)
    frequent = choose_ids(counts, draft_vocabulary)
    with staged(output, last="config.json") as fresh:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name != DRAFT_VOCABULARY:
                shutil.copyfile(path, fresh / path.name)
        write_draft_vocabulary(fresh, list(chosen.ids), vocab_size)
    return Pruned(
        folder=output,
        chosen=chosen,
        groups=groups,
        frequent=frequent.coverage,
        num_tokens=[int(row.sum()) for row in counts],
        vocab_size=vocab_size,
        group_by=group_by,
    )


def _counts(texts: Sequence[FitText], vocab_size: int) -> tuple[list[str], Array]:
    """Groups, and how often each token is in their answers, shape (groups, vocab_size)."""
    names = sorted({group for text in texts for group in text.groups})
    counts = np.zeros((len(names), vocab_size))
    for text in texts:
        if max(text.answer, default=0) >= vocab_size:
            raise ConfigError(
                f"token id {max(text.answer)} is none of the drafter's {vocab_size}: expected a "
                "drafter with the target's tokenizer"
            )
        found = np.bincount(np.asarray(text.answer, dtype=np.int64), minlength=vocab_size)
        for group in text.groups:
            counts[names.index(group)] += found
    return names, counts
