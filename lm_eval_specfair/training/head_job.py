"""A training job with a new head in it: what it learns from, and what it is."""

import dataclasses
from typing import Any

from lm_eval_specfair.training.data.rows import Corpus
from lm_eval_specfair.training.distil import SplitModel
from lm_eval_specfair.training.heads.head_distiller import HeadDistiller, HeadTeacher
from lm_eval_specfair.training.heads.head_setup import draft_ids, head_rows, new_head
from lm_eval_specfair.training.inputs import TrainingJob
from lm_eval_specfair.training.losses import DIVERGENCES


def with_head(
    job: TrainingJob, corpus: Corpus, target: SplitModel
) -> tuple[TrainingJob, Corpus, HeadTeacher, dict[str, Any]]:
    """The job with a new head for its corpus, what the head learns from, and what it is."""
    config = job.config
    corpus = head_rows(corpus)
    chosen = draft_ids(corpus, config, target.vocab_size)
    name = str(job.described.get("target") or "a target")
    head = new_head(
        target.model,
        None if chosen is None else chosen.ids,
        name=name,
        num_steps=config.num_speculative_tokens,
        seed=config.seed,
    )
    about = {
        "feature_layers": list(head.config.feature_layers),
        "unrolled_steps": config.unrolled_steps,
        "draft_vocabulary": head.config.draft_vocab_size,
        "forced_by_floor": None if chosen is None else chosen.forced,
        "coverage": None
        if chosen is None
        else dict(zip(corpus.names, chosen.coverage.tolist(), strict=True)),
    }
    loss = DIVERGENCES[config.divergence]
    distiller = HeadDistiller(head, loss, num_steps=config.unrolled_steps)
    job = dataclasses.replace(job, drafter=head, distiller=distiller)
    teacher = HeadTeacher(target, head.config.feature_layers, name=name)
    return job, corpus, teacher, about
