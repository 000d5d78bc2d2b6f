"""`specfair replay`: texts and drafters in, folders of records out, as if each drafter had decoded.

Each drafter and draft length gets a run's folder of its own, which every other verb reads. Clocks
are null: nothing was decoded. A folder that a killed replay left is resumed by its finished
drafters.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Record, RecordWriter, Settings, record_files, write_run
from lm_eval_specfair.records.provenance import now, provenance
from lm_eval_specfair.replay.known_text import KnownText
from lm_eval_specfair.replay.one_pass import OnePass
from lm_eval_specfair.replay.replay_sources import Source, read_texts
from lm_eval_specfair.replay.replayed_drafter import (
    ReplayedDrafter,
    ReplayedLookup,
    ReplayedModel,
)
from lm_eval_specfair.replay.replaying import Departure, ReplayedText, replay_texts

LOOKUP = "prompt_lookup"
_SHOWN_DEPARTURES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a replay made.

    Attributes:
        folders: A run's folder for each drafter and draft length.
        num_texts: Texts that were replayed.
        num_left_out: Requests of the sources without a text to replay.
        num_uncertain: Texts whose token ids may not be those that the model emitted.
        departures: Greedy texts that are not the target's own; empty without a target.
        seconds: Of reading and counting, without loading models.
    """

    folders: Sequence[Path]
    num_texts: int
    num_left_out: int
    num_uncertain: int
    departures: Sequence[Departure]
    seconds: float

    def notes(self) -> list[str]:
        """What a user must know to trust the records, in whole sentences."""
        notes = [f"{self.num_texts} texts were replayed in {self.seconds:.1f} s."]
        if self.num_left_out:
            notes.append(f"{self.num_left_out} requests without a generated text are left out.")
        if self.num_uncertain:
            notes.append(
                f"Of {self.num_uncertain} texts the token ids are not certain: they were encoded "
                "again from text, and the model may have split some of it differently or emitted "
                "a stop string that the text does not show."
            )
        notes += [
            f"{each.request_id} is not the target's own text: token {each.place} is "
            f"{each.below:.2g} standard deviations of the scores below its choice."
            for each in self.departures[:_SHOWN_DEPARTURES]
        ]
        if len(self.departures) > _SHOWN_DEPARTURES:
            notes.append(f"In all {len(self.departures)} texts are not the target's own.")
        return notes


def replay(
    sources: Sequence[Path],
    drafters: Sequence[str],
    output: Path,
    *,
    target: str | None = None,
    tokenizer: str | None = None,
    lengths: Sequence[int] = (4,),
    temperature: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "auto",
    show_progress: bool = True,
) -> Replay:
    """Take the speculative steps of finished texts again, with other drafters.

    Args:
        sources: Runs' folders, lm-eval's samples, JSON Lines (`replay.replay_sources`).
        drafters: Folders, hub ids, `embedded`, `embedded-fair` or `prompt_lookup`.
        output: New folder; with several drafters or lengths one folder each in it.
        target: Fills distributions, checks greedy texts, and is needed for sampled ones.
        tokenizer: Of the target, where sources hold text; by default the target's, else the first
            drafter's.
        lengths: Draft lengths.
        temperature: Of sampled texts whose source does not say.
        seed: With the request it decides what is kept of sampled texts.
        device: Where models are put.
        dtype: Of their weights; `auto` as stored.
        show_progress: Whether to draw a progress bar.

    Raises:
        ConfigError: If a source or a model cannot be read, sampled texts come without a target, or
            the output exists.
    """
    if not drafters:
        raise ConfigError("expected at least one --drafter, got none")
    if len(set(lengths)) < len(lengths) or not all(1 <= length <= 256 for length in lengths):
        raise ConfigError(
            f"--num-speculative-tokens must be different numbers from 1 to 256, got {lengths}"
        )
    named = _names(drafters, lengths)
    folders = {key: output if len(named) == 1 else output / name for key, name in named.items()}
    for folder in folders.values():
        if folder.is_dir() and record_files(folder):
            raise ConfigError(f"{folder} already holds records; name another folder with -o")
    loaded_tokenizer = _tokenizer(tokenizer, target, drafters)
    models = {name: _load(name, "drafter", device, dtype) for name in drafters if name != LOOKUP}
    reader = None if target is None else OnePass(_load(target, "target", device, dtype))
    max_length = 1 << 30 if reader is None else reader.max_length
    eos = None if loaded_tokenizer is None else loaded_tokenizer.eos_token_id
    read = [
        read_texts(
            path,
            loaded_tokenizer,
            max_length=max_length,
            eos_token_id=eos,
            temperature=temperature,
        )
        for path in sources
    ]
    texts = [text for source in read for text in source.texts]
    _refuse_unreadable(texts, target)
    vocab_size = None if reader is None else reader.vocab_size
    replayed: dict[str, ReplayedDrafter] = {
        name: ReplayedLookup()
        if name == LOOKUP
        else ReplayedModel(OnePass(models[name]), vocab_size=vocab_size)
        for name in drafters
    }
    _refuse_other_vocabulary(texts, models, reader)
    writers = {key: _Folder(folder) for key, folder in folders.items()}
    records = {name: record for source in read for name, record in source.records.items()}
    departures: dict[str, Departure] = {}
    started = time.perf_counter()
    total = sum(len(text.response) for text in texts)
    with tqdm(total=total, desc="Replaying", unit="token", disable=not show_progress) as bar:
        for one in replay_texts(
            texts,
            replayed,
            lengths,
            target=reader,
            vocab_size=max([vocab_size or 0, *(_vocabulary(model) for model in models.values())]),
            seed=seed,
            progress=bar.update,
        ):
            key = one.drafter, one.num_speculative_tokens
            writers[key].write(_record(one, records.get(one.text.request_id)))
            if one.departure is not None:
                departures[one.text.request_id] = one.departure
    seconds = time.perf_counter() - started
    uncertain = sum(not text.is_certain for text in texts)
    for (name, length), writer in writers.items():
        writer.finish(
            _run(read, name, length, target, models.get(name), reader, seed)
            | {
                "totals": {
                    "num_requests": len(texts),
                    "num_generated_tokens": total,
                    "num_left_out": sum(source.num_left_out for source in read),
                    "num_uncertain_texts": uncertain,
                    "num_texts_not_the_targets": len(departures),
                    "texts_are_checked": reader is not None,
                    "replay_seconds": seconds,
                }
            }
        )
    return Replay(
        folders=list(folders.values()),
        num_texts=len(texts),
        num_left_out=sum(source.num_left_out for source in read),
        num_uncertain=uncertain,
        departures=list(departures.values()),
        seconds=seconds,
    )


def _names(drafters: Sequence[str], lengths: Sequence[int]) -> dict[tuple[str, int], str]:
    """A folder's name for each drafter and draft length."""
    if len(set(drafters)) < len(drafters):
        raise ConfigError(f"a --drafter is named twice: {', '.join(drafters)}")
    short = {name: Path(name).name or name for name in drafters}
    if len(set(short.values())) < len(short):
        short = {name: name.strip("/").replace("/", "-") for name in drafters}
    return {
        (name, length): short[name] + (f"-{length}" if len(lengths) > 1 else "")
        for name in drafters
        for length in lengths
    }


def _resolved(name: str) -> str:
    if name == "embedded-target":
        return str(loading.EMBEDDED_TARGET)
    return str(loading.EMBEDDED_DRAFTERS.get(name, name))


def _load(name: str, role: str, device: str, dtype: str) -> PreTrainedModel:
    path = str(loading.EMBEDDED_TARGET) if role == "target" and name == "embedded" else name
    model = loading.load_model(_resolved(path), role, dtype=dtype)
    if dtype == "auto" and device == "cpu":
        model = model.float()  # half types are slow on a CPU and round differently
    return model.to(device)


def _tokenizer(
    name: str | None, target: str | None, drafters: Sequence[str]
) -> PreTrainedTokenizerBase | None:
    if name is None and target is not None:
        name = str(loading.EMBEDDED_TARGET) if target == "embedded" else target
    if name is None:
        name = next((drafter for drafter in drafters if drafter != LOOKUP), None)
    if name is None:
        return None
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(_resolved(name))
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("tokenizer", name, error) from error
    return found


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)


def _refuse_unreadable(texts: Sequence[KnownText], target: str | None) -> None:
    sampled = next((text for text in texts if text.temperature > 0), None)
    if sampled is not None and target is None:
        raise ConfigError(
            f"{sampled.request_id} was sampled (temperature {sampled.temperature:g}): what "
            "a drafter would have kept depends on the target's distribution; name it with --target"
        )
    names = [text.request_id for text in texts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"request {twice!r} is in the sources twice")


def _refuse_other_vocabulary(
    texts: Sequence[KnownText], models: Mapping[str, PreTrainedModel], target: OnePass | None
) -> None:
    """Ids that a model cannot have emitted or read come from another tokenizer."""
    largest = max(max(*text.prompt, *text.response) for text in texts)
    if target is not None and largest >= target.vocab_size:
        raise ConfigError(
            f"token id {largest} is none of the target's {target.vocab_size}: the texts were made "
            "with another tokenizer"
        )
    for name, model in models.items():
        # Vocabularies of one tokenizer are padded differently, by some hundreds at most.
        if largest >= _vocabulary(model) + 1024:
            raise ConfigError(
                f"token id {largest} is beyond the {_vocabulary(model)} of drafter {name}: it has "
                "another tokenizer than the texts"
            )


class _Folder:
    """A run's folder under way: records at once, `run.json` at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"-o {path} cannot be used ({error.strerror}); name a folder that can be written"
            ) from None
        self._writer = RecordWriter(path)

    def write(self, record: Record) -> None:
        self._writer.write(record)

    def finish(self, run: dict[str, Any]) -> None:
        self._writer.close()
        write_run(self._path, run)


def _record(one: ReplayedText, decoded: Record | None) -> Record:
    """The record of a replayed text: what the source's record says, with this drafter's counts."""
    text, counted = one.text, one.counters
    length = one.num_speculative_tokens
    fields: dict[str, Any] = {
        "num_spec_steps": counted.num_steps,
        "num_draft_tokens": sum(counted.drafted_per_step),
        "num_accepted_draft_tokens": sum(counted.accepted_per_step),
        "num_examined_draft_tokens": counted.num_examined,
        "acceptance_histogram": counted.histogram(length),
        "drafted_per_step": counted.drafted_per_step,
        "accepted_per_step": counted.accepted_per_step,
        **counted.distribution_fields(measured=counted.num_positions > 0),
        "settings": Settings(
            num_speculative_tokens=length,
            temperature=text.temperature,
            top_k=text.top_k,
            top_p=text.top_p,
        ),
    }
    clocks = dict.fromkeys(
        (
            "draft_seconds",
            "verify_seconds",
            "decode_seconds",
            "prefill_seconds",
            "baseline_seconds",
            "baseline_generated_tokens",
            "baseline_agrees",
            "num_active_rows_sum",
        )
    )
    if decoded is not None:
        return structs.replace(decoded, **fields, **clocks)
    return Record(
        request_id=text.request_id,
        task=text.task,
        doc_id=text.doc_id,
        request_type="generate_until",
        group_fields=text.group_fields,
        num_prompt_tokens=len(text.prompt),
        num_generated_tokens=len(text.response),
        num_generated_bytes=len(text.text.encode("utf-8", errors="replace")),
        num_generated_chars=len(text.text),
        finish_reason=text.finish_reason,
        generated_token_ids=text.response,
        generated_text=text.text,
        **fields,
    )


def _run(
    sources: Sequence[Source],
    drafter: str,
    length: int,
    target: str | None,
    model: PreTrainedModel | None,
    reader: OnePass | None,
    seed: int,
) -> dict[str, Any]:
    """`run.json`: the source's settings where it is a run, with this drafter in them."""
    runs = [source.run for source in sources if source.run]
    settings = dict(runs[0].get("settings") or {}) if runs else {}
    if not runs and target is not None and reader is not None:
        settings |= {"target": loading.shown_name(_resolved(target))}
    tasks: dict[str, Any] = {}
    for run in runs:
        tasks |= run.get("tasks") or {}
    return {
        **provenance(),
        "finished": now(),
        "backend": "replay",
        "settings": settings
        | {
            "seed": settings.get("seed", seed),
            "num_speculative_tokens": length,
            "drafter": loading.shown_name(_resolved(drafter)),
            "drafter_weights": None
            if model is None
            else loading.weights_digest(_resolved(drafter), model),
        },
        "tasks": tasks,
    }
