"""From items and two loaded models to a finished folder, as `specfair train` does it."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.adapters import merged
from lm_eval_specfair.training.card import results_of, write_card
from lm_eval_specfair.training.checkpoint import cannot_write
from lm_eval_specfair.training.data.rows import Row, split_items
from lm_eval_specfair.training.job import RESULTS_FILE, Job, claim_folder
from lm_eval_specfair.training.log import start_trackers
from lm_eval_specfair.training.loop import Outcome, Trainer
from lm_eval_specfair.training.materials import (
    answered,
    corpus_of,
    on_policy_rows,
    teacher_cache,
)
from lm_eval_specfair.training.teacher_cache import shared_vocabulary
from lm_eval_specfair.training.weighting import parse

logger = logging.getLogger(__name__)

_STATE = ("checkpoint", "best", "responses.jsonl", "teacher_cache.safetensors")


def train_drafter(job: Job, *, resume: bool = False, stop_after: int | None = None) -> Path | None:
    """Train a drafter and save it as an ordinary Hugging Face folder with a model card.

    Args:
        job: What is trained on what.
        resume: Go on with the run in the folder; a finished one is left as it is.
        stop_after: Stop at this step as a kill would; for tests.

    Returns:
        The results' file; None if it was stopped.

    Raises:
        ConfigError: If data, folder or training go wrong; the last good checkpoint is kept.
    """
    config = job.config
    splits = split_items(job.items, share=config.split_share, seed=config.seed)
    accelerator = Accelerator(
        # Several processes without a GPU are told apart only where it is asked for.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        log_with=_tracker(job.tracker),
        project_dir=job.folder,
        # Our batches are parts of one sum already; accelerate must not divide them.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    settings = {**dataclasses.asdict(config), **job.described, "items": len(job.items)}
    # Refused before anything is written.
    if config.cache_top_k is not None:
        sizes = [each.config.get_text_config().vocab_size for each in (job.drafter, job.target)]
        shared_vocabulary(config.cache_top_k, *sizes)
    names = {name for item in job.items for name, _ in item.membership}
    parse(config.weighting).refuse_unknown(sorted(names))
    with accelerator.main_process_first():
        # The others come when the folder is there, as this very run's.
        claim_folder(job.folder, settings, resume=resume or not accelerator.is_main_process)
    if (job.folder / RESULTS_FILE).exists():
        logger.warning("%s is finished already", job.folder)
        return job.folder / RESULTS_FILE
    start_trackers(accelerator, job.tracker, settings)

    job.target.to(accelerator.device)
    job.drafter.to(accelerator.device)
    with accelerator.main_process_first():
        splits = answered(job, splits)
    corpus = corpus_of(job, splits)
    cache = teacher_cache(job, corpus, accelerator) if config.cache_top_k else None
    refresh = None
    if config.responses == "drafter":
        prompts = splits["train"]

        def refresh(drafter: PreTrainedModel, step: int) -> list[Row]:
            return on_policy_rows(job, drafter, prompts, corpus.names, step)

    trainer = Trainer(
        job.target,
        job.drafter,
        corpus,
        config,
        job.folder,
        accelerator=accelerator,
        refresh=refresh,
        cache=cache,
    )
    outcome = trainer.run(stop_after=stop_after)
    if outcome is not None:
        drafter = trainer.whole_drafter()
        if accelerator.is_main_process:
            _finish(job, drafter, outcome, settings)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if outcome is None:
        return None
    return job.folder / RESULTS_FILE


def _tracker(name: str | None) -> str | None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name is not None and name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise ConfigError(f"--tracker must be one of {known}, got {name!r}")
    return name


def _finish(job: Job, drafter: PreTrainedModel, outcome: Outcome, settings: dict[str, Any]) -> None:
    """Save beside the state, move in place, and only then drop the state."""
    fresh = job.folder / "finished.writing"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        merged(drafter).save_pretrained(fresh)
        job.tokenizer.save_pretrained(fresh)
        results = results_of(
            outcome,
            seed=job.config.seed,
            num_speculative_tokens=job.config.num_speculative_tokens,
        )
        cached = job.folder / "teacher_cache.json"
        if cached.exists():
            results["teacher_cache"] = json.loads(cached.read_text(encoding="utf-8"))
        write_card(fresh / "README.md", results, settings, job.config)
        (fresh / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        # The results come last: where they are, the run is finished.
        for path in sorted(fresh.iterdir(), key=lambda path: path.name == RESULTS_FILE):
            path.chmod(0o644)
            path.replace(job.folder / path.name)
        fresh.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise cannot_write(job.folder, error) from error
    for name in _STATE:
        path = job.folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif name != "responses.jsonl":  # data of the run, worth keeping
            path.unlink(missing_ok=True)
