"""`specfair replay`: texts and drafters in, folders of records out, as if each drafter had decoded.

Each drafter and draft length gets a run's folder of its own, which every other verb reads. Times
are null: nothing was decoded. The same replay, once killed, goes on where it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from lm_eval_specfair.decoding.composed.named_drafters import fitted_prompts
from lm_eval_specfair.decoding.fitted.fitted_folder import prompt_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays import replay_models, replay_plan
from lm_eval_specfair.replays.drafters.replay_drafters import ReplayDrafters, refuse_heads
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.quick_products import quicken
from lm_eval_specfair.replays.reference_scores import reference_records
from lm_eval_specfair.replays.replay_costs import costs_here, named_costs
from lm_eval_specfair.replays.replay_folder import (
    Departures,
    ReplayFolder,
    replay_record,
    replay_run_info,
)
from lm_eval_specfair.replays.replay_notes import replay_notes
from lm_eval_specfair.replays.replay_readings import readings_of
from lm_eval_specfair.replays.replaying import Departure, replay_texts
from lm_eval_specfair.replays.sources.document_share import DocumentShare
from lm_eval_specfair.replays.sources.replay_sources import TextSource, read_texts
from lm_eval_specfair.replays.target_side import TargetSide


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a replay made.

    Attributes:
        folders: A run's folder for each drafter and draft length.
        sources: Of the texts.
        departures: Greedy texts that are not the target's own; empty without a target.
        seconds: Of reading and counting, without loading models.
        num_earlier: Texts that an earlier call, once killed, had replayed.
        has_target: Whether texts were held against the target.
        in_own_tokens: Drafters with another tokenizer than the texts'.
        are_references: Whether the texts were read as references.
        on_learnt: By fitted drafter, the texts that it was fitted on.
    """

    folders: Sequence[Path]
    sources: Sequence[TextSource]
    departures: Sequence[Departure]
    seconds: float
    num_earlier: int
    has_target: bool
    in_own_tokens: Sequence[str] = ()
    are_references: bool = False
    on_learnt: Mapping[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What a user must know to trust the records, in whole sentences."""
        return replay_notes(
            self.sources,
            self.departures,
            seconds=self.seconds,
            num_earlier=self.num_earlier,
            has_target=self.has_target,
            in_own_tokens=self.in_own_tokens,
            are_references=self.are_references,
            on_learnt=self.on_learnt,
        )


def replay(
    sources: Sequence[Path],
    drafters: Sequence[str],
    output: Path,
    *,
    target: str | None = None,
    target_cache: Path | None = None,
    tokenizer: str | None = None,
    documents: str = "all",
    lengths: Sequence[int] = (4,),
    temperature: float | None = None,
    drafter_temperature: float | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    costs: tuple[float, float, float] | Path | None = None,
    measure_costs: bool = False,
    references: bool = False,
    show_progress: bool = True,
    keep: Callable[[KnownText], bool] | None = None,
) -> Replay:
    """Take the speculative steps of finished texts again, with other drafters.

    Args:
        sources: Runs' folders, lm-eval's samples, JSON Lines (`replays.sources.replay_sources`).
        drafters: Names (`decoding.composed.named_drafters`); `NAME@int8` and the like quantize or
            convert a model's weights.
        output: New folder; with several drafters or lengths one folder each in it. The same replay
            that was killed goes on in it.
        target: Fills distributions, checks greedy texts, and is needed for sampled ones.
        target_cache: Folder that keeps the target's pass: with the texts in it the target itself is
            not read, nor need it be named.
        tokenizer: Of the target, where sources hold text; by default the target's, else the first
            drafter's.
        documents: Which are replayed (`replays.sources.document_share`).
        lengths: Draft lengths.
        temperature: Of sampled texts whose source does not say.
        drafter_temperature: The drafters' own along sampled texts; None for the texts'.
        seed: With the request it decides what is kept of sampled texts.
        device: Where models are put; by default a GPU where there is one.
        dtype: Of their weights; `auto` as stored.
        costs: c, v and o of a step, in plain steps, or a decoded run that measured them: fills the
            modelled speed-up.
        measure_costs: Measure them here, for a few seconds; needs the target.
        references: Texts are not the target's but people's: read by both models at each token.
        show_progress: Draws a progress bar.
        keep: Which of the texts are replayed; by default all are.

    Raises:
        ConfigError: If a source or a model cannot be read, sampled texts come without a target, or
            the output holds anything else; `NothingToReplay` if no text is left.
    """
    if not drafters:
        raise ConfigError("expected at least one --drafter, got none")
    if len(set(lengths)) < len(lengths) or not all(1 <= length <= 256 for length in lengths):
        raise ConfigError(
            f"--num-speculative-tokens must be different numbers from 1 to 256, got {lengths}"
        )
    if costs is not None and measure_costs:
        raise ConfigError("costs are named or measured, not both: leave out --measure-costs")
    for option, given in {"--measure-costs": measure_costs, "--references": references}.items():
        if given:
            refuse_heads(drafters, option)
    if measure_costs and target is None:
        raise ConfigError("--measure-costs decodes with both models: name the target with --target")
    if references:
        replay_plan.refuse_as_references(sources, drafters, lengths, target or target_cache)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    named = replay_plan.folder_names(drafters, lengths)
    paths = {key: output if len(named) == 1 else output / name for key, name in named.items()}
    known_costs = None if costs is None else named_costs(costs)
    loaded_tokenizer = replay_models.load_tokenizer(
        tokenizer or (None if target else replay_models.target_of_runs(sources)), target, drafters
    )
    side = TargetSide(target, target_cache, device, dtype)
    loaded = ReplayDrafters(drafters, side, device, dtype)
    models, heads = loaded.models, loaded.heads
    # Digests come first: they are of the weights as they were loaded.
    pairs = {
        name: replay_models.pair_of(
            name, loaded.module(name), target=side.name, target_weights=side.weights
        )
        for name in drafters
    }
    costs_by_key = dict.fromkeys(named, known_costs)
    max_length = 1 << 30 if side.reader is None else side.reader.max_length
    # What a reference is followed by is nobody's choice.
    eos = None if loaded_tokenizer is None or references else loaded_tokenizer.eos_token_id
    read = [
        read_texts(
            path, loaded_tokenizer, max_length=max_length, eos_token_id=eos, temperature=temperature
        )
        for path in sources
    ]
    read = [source.of_documents(DocumentShare.read(documents), keep) for source in read]
    texts = replay_plan.texts_of(read, documents, drafter_temperature)
    replay_plan.refuse_unreadable(texts, has_target=side.reader is not None)
    readers, on_states = loaded.readers(), loaded.replayed_heads()
    readings = readings_of(texts, drafters, readers, side.reader, loaded_tokenizer, on_states)
    if references and readings.own:
        raise ConfigError(
            f"--references: drafter {next(iter(readings.own))!r} has another tokenizer than the "
            "target; tokens of the two are no common measure"
        )
    kind = {"references": True} if references else {}
    identity = kind | {"texts": replay_plan.texts_digest(texts), "seed": seed, "dtype": dtype}
    folders = {
        (name, length): ReplayFolder(
            paths[name, length],
            identity
            | {
                "drafter": pairs[name].drafter_weights or pairs[name].drafter,
                "target": pairs[name].target_weights or pairs[name].target,
                "num_speculative_tokens": length,
            },
        )
        for name, length in named
    }
    if all(folder.is_finished for folder in folders.values()):
        raise ConfigError(f"{output} already holds this replay; name another folder with -o")
    if measure_costs and readings.own:
        raise ConfigError(
            f"--measure-costs: drafter {next(iter(readings.own))!r} has another tokenizer; "
            "decode a run with it and name that with --costs-from"
        )
    parts = [
        part.without(
            replay_plan.done_in_all(
                [folders[name, length] for name in part.drafters for length in lengths]
            )
        )
        for part in readings.parts
    ]
    against = [text for part in parts if part.target is not None for text in part.texts]
    side.prepare(against, needs_model=measure_costs)
    if measure_costs and side.model is not None:
        costs_by_key = {
            (name, length): costs_here(
                side.model, replay_models.named_drafter(name), models.get(name), texts, length
            )
            for name, length in named
        }
    left = {text.request_id for part in parts for text in part.texts}
    for folder in folders.values():
        if not folder.is_finished:
            folder.begin()
    departures = Departures(output)
    for model in (*models.values(), side.model):
        if model is not None:
            quicken(model)
    records = {name: record for source in read for name, record in source.records.items()}
    some_uncertain = not all(text.is_certain for text in texts)
    started = time.perf_counter()
    total = sum(len(text.response) for text in texts)
    to_read = sum(len(text.response) for part in parts for text in part.texts)
    with tqdm(total=to_read, desc="Replaying", unit="token", disable=not show_progress) as bar:
        if references and side.reader is not None:
            for name, record in reference_records(
                parts[0].texts, readers, side.reader, progress=bar.update
            ):
                folders[name, lengths[0]].write(record)
            parts = []
        for one in (
            one
            for part in parts
            for one in replay_texts(
                part.texts,
                part.drafters,
                lengths,
                target=part.target,
                seed=seed,
                progress=bar.update,
            )
        ):
            if one.departure is not None:
                departures.add(one.departure)
            record = replay_record(
                one,
                records.get(one.text.request_id),
                spelled=readings.spelled(one.drafter),
                in_own_tokens=one.drafter in readings.own,
                some_uncertain=some_uncertain,
            )
            folders[one.drafter, one.num_speculative_tokens].write(record)
    seconds = time.perf_counter() - started
    totals = {
        "num_requests": len(texts),
        "num_generated_tokens": total,
        "num_left_out": sum(source.num_left_out for source in read),
        "num_uncertain_texts": sum(not text.is_certain for text in texts),
        "num_texts_not_the_targets": len(departures.found),
        "texts_are_checked": readings.has_target,
        "num_replayed_earlier": len(texts) - len(left),
        "replay_seconds": seconds,
    }
    learnt = {name: fitted_prompts([replay_models.named_drafter(name)]) for name in drafters}
    on_learnt = {
        name: sum(prompt_digest(text.prompt) in prompts for text in texts)
        for name, prompts in learnt.items()
        if prompts
    }
    for (name, length), folder in folders.items():
        own = {"num_fitted_requests": on_learnt[name]} if name in on_learnt else {}
        info = replay_run_info(
            read, pairs[name], length, seed,
            in_own_tokens=name in readings.own, drafter_temperature=drafter_temperature,
            head=heads.get(name),
        )  # fmt: skip
        step = costs_by_key[name, length]
        info |= ({"costs": step.to_json()} if step else {}) | {"totals": totals | own}
        folder.finish(info, readings.pieces(name))
    return Replay(
        folders=list(paths.values()),
        sources=read,
        departures=list(departures.found.values()),
        seconds=seconds,
        num_earlier=len(texts) - len(left),
        has_target=readings.has_target,
        in_own_tokens=list(readings.own),
        are_references=references,
        on_learnt=on_learnt,
    )
