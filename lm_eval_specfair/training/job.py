"""The job of `specfair train`: load a pair and texts, train, save a drafter with its model card."""

import functools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import GradientAccumulationPlugin
from transformers import AutoTokenizer

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.heads.head_folder import write_head
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training import inputs, model_setup, options
from lm_eval_specfair.training.artifacts.card import card_of
from lm_eval_specfair.training.artifacts.out_folder import (
    RESULTS_FILE,
    claim_folder,
    given_back,
    save_finished,
)
from lm_eval_specfair.training.artifacts.train_results import results_of
from lm_eval_specfair.training.artifacts.training_log import start_trackers
from lm_eval_specfair.training.data.items import restricted
from lm_eval_specfair.training.data.rows import build_corpus, split_items
from lm_eval_specfair.training.data.text_sources import read_source
from lm_eval_specfair.training.distil import SplitModel, Teacher
from lm_eval_specfair.training.head_job import with_head
from lm_eval_specfair.training.heads.feature_cache import CachedHeadTeacher, forget_features
from lm_eval_specfair.training.heads.head_distiller import HeadTeacher
from lm_eval_specfair.training.heads.head_setup import refuse_unfit
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.teacher_cache import (
    RecordedTeacher,
    TeacherRecord,
    read_record,
    shared_vocabulary,
)
from lm_eval_specfair.training.trainer import Trainer
from lm_eval_specfair.training.weighting import parse

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 64
"""Tokens that a teacher cache keeps where nobody says."""


def train(
    data: str,
    out: Path,
    config: TrainConfig | None = None,
    *,
    target: str | None = None,
    drafter: str | None = None,
    task_folders: Sequence[str] = (),
    lora_rank: int | None = None,
    quantize_target: str | None = None,
    target_device_map: str | None = None,
    teacher_cache: Path | None = None,
    tracker: str | None = None,
    resume: bool = False,
    groups: Collection[str] | None = None,
) -> Path:
    """Fine-tune a drafter against a frozen target; the results' file.

    Arguments are as of `api.train`; `task_folders` have tasks that `data` may name. A finished run
    that is resumed is left as it is. `groups` are learnt from alone, be it one; by default all are.

    Raises:
        ConfigError: If an argument, the data or the training go wrong.
    """
    config = config or TrainConfig()
    # A misspelt name should not wait for the models.
    weighting = parse(config.weighting)
    is_head = config.kind != "model"
    refuse_unfit(config, drafter=drafter, lora_rank=lora_rank, teacher_cache=teacher_cache)
    if tracker is not None and tracker not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise ConfigError(f"--tracker must be one of {known}, got {tracker!r}")
    target = target or str(loading.EMBEDDED_TARGET)
    if drafter is None and not is_head and target != str(loading.EMBEDDED_TARGET):
        raise ConfigError(
            "--drafter is required with this target: pass the path or hub id of a small model "
            "with the target's tokenizer"
        )
    drafter = str(loading.EMBEDDED_DRAFTERS.get(drafter or "embedded", drafter))
    arguments = model_setup.loading_arguments(quantize_target, target_device_map)
    shown = loading.shown_name(target)
    record = None
    if teacher_cache is not None:
        record = read_record(teacher_cache)
        quantize_target = record.quantize_target if record else quantize_target
        config = _with_cache(config, record, teacher_cache, shown)
    items = read_source(data, task_folders=list(task_folders))
    if groups is not None:
        items = restricted(items, groups)
    try:
        tokenizer = AutoTokenizer.from_pretrained(target)
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("target", target, error) from error
    if not is_head:
        loading.check_same_tokenizer(tokenizer, drafter)
    if record is not None:
        target_model, target_weights = None, record.target_weights
    else:
        target_model = loading.load_model(target, "target", dtype="auto", **arguments)
        model_setup.check_placed(target_model)
        target_weights = weights_digest(target, target_model)
    # Weights that learn need more digits than those that are only read.
    model = None if is_head else loading.load_model(drafter, "drafter", dtype=torch.float32)
    of_drafter = {"drafter": "a new head", "drafter_weights": None}
    if model is not None:
        of_drafter = {
            "drafter": loading.shown_name(drafter),
            "drafter_weights": weights_digest(drafter, model),
        }
    described = {
        "target": shown,
        "target_weights": target_weights,
        **of_drafter,
        "data": data,
        "lora_rank": lora_rank,
        "quantize_target": quantize_target,
        "teacher_cache": None if teacher_cache is None else str(teacher_cache),
        **({} if groups is None else {"groups": sorted(groups)}),
    }
    if lora_rank is not None and model is not None:
        model_setup.add_lora(model, lora_rank)
    job = inputs.TrainingJob(
        target=target_model,
        target_is_placed="device_map" in arguments,
        drafter=model,
        tokenizer=tokenizer,
        items=items,
        config=config,
        weighting=weighting,
        folder=out,
        described=described,
        tracker=tracker,
        teacher_cache=teacher_cache,
        fewest_groups=2 if groups is None else 1,
    )
    results = train_drafter(job, resume=resume)
    assert results is not None
    return results


def _with_cache(
    config: TrainConfig, record: TeacherRecord | None, folder: Path, target: str
) -> TrainConfig:
    """The settings with the cache's number of tokens, which it decides once it is recorded."""
    given = config.cache_top_k
    if record is None:
        return msgspec.structs.replace(config, cache_top_k=given or DEFAULT_TOP_K)
    if given not in (None, record.top_k) or record.target not in (None, target):
        raise ConfigError(
            f"--teacher-cache {folder} has the {record.top_k} most likely tokens of "
            f"{record.target}, got --cache-top-k {given} and --target {target}; use what it was "
            "recorded with, or another folder"
        )
    return msgspec.structs.replace(config, cache_top_k=record.top_k)


def train_drafter(
    job: inputs.TrainingJob, *, resume: bool = False, stop_after: int | None = None
) -> Path | None:
    """Train a drafter and save it as an ordinary Hugging Face folder with a model card.

    `resume` resumes the run in the folder; a finished one is left as it is. `stop_after` stops at
    this step as a kill would. Gives the results' file; None if it was stopped.

    Raises:
        ConfigError: If data, folder or training go wrong; the last good checkpoint is kept.
    """
    config, folder, drafter = job.config, job.folder, job.drafter
    splits = split_items(
        job.items, share=config.split_share, seed=config.seed, fewest_groups=job.fewest_groups
    )
    accelerator = Accelerator(
        # Several processes without a GPU are distinguished only where it is asked for.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        log_with=job.tracker,
        project_dir=folder,
        # Our batches are parts of one sum already; accelerate must not divide them.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    # Refused before anything is written.
    model_setup.check_launch(accelerator)
    if config.cache_top_k is not None and job.target is not None and drafter is not None:
        sizes = [m.config.get_text_config().vocab_size for m in (drafter, job.target)]
        shared_vocabulary(config.cache_top_k, *sizes)
    names = {name for item in job.items for name, _ in item.membership}
    job.weighting.refuse_unknown(sorted(names))
    settings = {**options.described(config), **job.described, "items": len(job.items)}
    with accelerator.main_process_first():
        # The others come when the folder is there, as this very run's.
        claim_folder(folder, settings, resume=resume or not accelerator.is_main_process)
    if (folder / RESULTS_FILE).exists():
        logger.warning("%s is finished already", folder)
        return folder / RESULTS_FILE
    start_trackers(accelerator, job.tracker, settings)

    target = None
    if job.target is not None:
        if not job.target_is_placed:
            job.target.to(accelerator.device)
        target = SplitModel(job.target.eval().requires_grad_(False))
    with accelerator.main_process_first():
        splits = inputs.answered(job, splits)
    corpus = build_corpus(splits, job.encode, eos=job.eos, length=config.length)
    teacher: Teacher | None = target
    if config.cache_top_k is not None:
        teacher = inputs.recorded_teacher(job, target, corpus, accelerator)
    assert teacher is not None
    about_head: dict[str, Any] | None = None
    head_teacher: HeadTeacher | None = None
    if config.kind != "model":
        assert target is not None
        with given_back(folder):
            job, corpus, head_teacher, about_head = with_head(job, corpus, target)
        teacher = head_teacher
        drafter = job.drafter
        if config.cache_features:
            with accelerator.main_process_first():
                rows, micro_rows = corpus.train, config.micro_rows
                teacher = CachedHeadTeacher(head_teacher, rows, folder, micro_rows=micro_rows)
    drafter.to(accelerator.device)
    write_rows = None
    if config.responses == "drafter":
        write_rows = functools.partial(inputs.on_policy_rows, job, splits["train"], corpus.names)
    cost_ratio = config.cost_ratio
    if cost_ratio is None:
        cost_ratio = sum(x.numel() for x in drafter.parameters()) / teacher.num_parameters
    trainer = Trainer(
        job,
        teacher,
        corpus,
        accelerator,
        cost_ratio=float(cost_ratio),
        # Several runs of one record are compared: all see what the first saw.
        probe_teacher=head_teacher or (teacher if job.teacher_cache else target),
        write_rows=write_rows,
    )
    result = trainer.run(stop_after=stop_after)
    if result is not None and accelerator.is_main_process:
        gamma = config.num_speculative_tokens
        results = results_of(result, seed=config.seed, num_speculative_tokens=gamma)
        if isinstance(teacher, RecordedTeacher):
            results["teacher_cache"] = msgspec.to_builtins(teacher.record)
        if about_head is not None:
            results["head"] = about_head
        card = card_of(folder.name, results, settings)
        save = (
            functools.partial(write_head, drafter)
            if about_head is not None
            else model_setup.merged(drafter).save_pretrained
        )
        save_finished(folder, save, job.tokenizer, results=results, card=card)
        forget_features(folder)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return None if result is None else folder / RESULTS_FILE
