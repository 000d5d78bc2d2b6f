"""`specfair replay`: texts and drafters in, folders of records out, as if each drafter had decoded.

Each drafter and draft length gets a run's folder of its own, which every other verb reads. Times
are null: nothing was decoded. A killed replay leaves folders without `run.json`, which are no runs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lm_eval_specfair.decoding.vocabularies.token_bytes import spelling
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import record_files
from lm_eval_specfair.replays import replay_models
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.one_pass import OnePass
from lm_eval_specfair.replays.own_tokens import own_tokens
from lm_eval_specfair.replays.replay_folder import ReplayFolder, replay_record, replay_run_info
from lm_eval_specfair.replays.replay_models import LOOKUP, load
from lm_eval_specfair.replays.replay_sources import read_texts
from lm_eval_specfair.replays.replayed_drafter import ReplayedDrafter, ReplayedLookup, ReplayedModel
from lm_eval_specfair.replays.replaying import Departure, replay_texts

_SHOWN_DEPARTURES = 5


@dataclass(frozen=True, slots=True)
class _Together:
    """Texts in the tokens of some drafters; without the target where these are not its own."""

    texts: Sequence[KnownText]
    drafters: Mapping[str, ReplayedDrafter]
    target: OnePass | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a replay made.

    Attributes:
        folders: A run's folder for each drafter and draft length.
        num_left_out: Requests of the sources without a text to replay.
        num_uncertain: Texts whose token ids may not be those that the model emitted.
        departures: Greedy texts that are not the target's own; empty without a target.
        seconds: Of reading and counting, without loading models.
        in_own_tokens: Drafters with another tokenizer than the texts'.
    """

    folders: Sequence[Path]
    num_texts: int
    num_left_out: int
    num_uncertain: int
    departures: Sequence[Departure]
    seconds: float
    in_own_tokens: Sequence[str] = ()

    def notes(self) -> list[str]:
        """What a user must know to trust the records, in whole sentences."""
        notes = [f"{self.num_texts} texts were replayed in {self.seconds:.1f} s."]
        if self.num_left_out:
            notes.append(f"{self.num_left_out} requests without a generated text are left out.")
        if self.num_uncertain:
            notes.append(
                f"The token ids of {self.num_uncertain} texts are not certain: they were encoded "
                "again from text, and the model may have split some of it differently or emitted "
                "a stop string that the text does not show."
            )
        notes += [
            f"Drafter {name} has another tokenizer than the texts: it was replayed on its own "
            "tokens of them, so compare bytes (accepted_bytes_share), not tokens."
            for name in self.in_own_tokens
        ]
        notes += [
            f"{text.request_id} is not the target's own text: token {text.place} is "
            f"{text.below:.2g} standard deviations of the scores below its choice."
            for text in self.departures[:_SHOWN_DEPARTURES]
        ]
        if len(self.departures) > _SHOWN_DEPARTURES:
            notes.append(f"{len(self.departures)} texts in all are not the target's own.")
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
        show_progress: Draws a progress bar.

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
    loaded_tokenizer = replay_models.load_tokenizer(
        tokenizer or (None if target else replay_models.target_of_runs(sources)), target, drafters
    )
    models = {name: load(name, "drafter", device, dtype) for name in drafters if name != LOOKUP}
    readers = {name: OnePass(model) for name, model in models.items()}
    reader = None if target is None else OnePass(load(target, "target", device, dtype))
    max_length = 1 << 30 if reader is None else reader.max_length
    eos = None if loaded_tokenizer is None else loaded_tokenizer.eos_token_id
    read = [
        read_texts(
            path, loaded_tokenizer, max_length=max_length, eos_token_id=eos, temperature=temperature
        )
        for path in sources
    ]
    texts = [text for source in read for text in source.texts]
    _refuse_unreadable(texts, target)
    vocab_size = None if reader is None else reader.vocab_size
    paths = {name: replay_models.resolved(name) for name in readers}
    own = own_tokens(paths, loaded_tokenizer)
    replayed: dict[str, ReplayedDrafter] = {
        name: ReplayedLookup()
        if name == LOOKUP
        else ReplayedModel(readers[name], vocab_size=None if name in own else vocab_size)
        for name in drafters
    }
    of_texts = {name: each for name, each in readers.items() if name not in own}
    replay_models.refuse_other_vocabulary(texts, of_texts, reader)
    spelled = spelling(loaded_tokenizer, "the target") if own and loaded_tokenizer else None
    readings = [_Together(texts, {n: d for n, d in replayed.items() if n not in own}, reader)]
    readings += [
        _Together([t for text in texts if (t := each.of_text(text))], {name: replayed[name]}, None)
        for name, each in own.items()
    ]
    writers = {key: ReplayFolder(folder) for key, folder in folders.items()}
    records = {name: record for source in read for name, record in source.records.items()}
    departures: dict[str, Departure] = {}
    started = time.perf_counter()
    total = sum(len(text.response) for text in texts)
    readings = [each for each in readings if each.drafters]
    to_read = sum(len(text.response) for each in readings for text in each.texts)
    with tqdm(total=to_read, desc="Replaying", unit="token", disable=not show_progress) as bar:
        for one in (
            one
            for each in readings
            for one in replay_texts(
                each.texts,
                each.drafters,
                lengths,
                target=each.target,
                seed=seed,
                progress=bar.update,
            )
        ):
            key = one.drafter, one.num_speculative_tokens
            foreign = own.get(one.drafter)
            record = replay_record(
                one,
                records.get(one.text.request_id),
                spelled=foreign.spelling if foreign else spelled,
                in_own_tokens=foreign is not None,
            )
            writers[key].write(record)
            if one.departure is not None:
                departures[one.text.request_id] = one.departure
    seconds = time.perf_counter() - started
    uncertain = sum(not text.is_certain for text in texts)
    left_out = sum(source.num_left_out for source in read)
    for (name, length), writer in writers.items():
        writer.finish(
            replay_run_info(
                read,
                name,
                length,
                target,
                models.get(name),
                reader,
                seed,
                in_own_tokens=name in own,
            )
            | {
                "totals": {
                    "num_requests": len(texts),
                    "num_generated_tokens": total,
                    "num_left_out": left_out,
                    "num_uncertain_texts": uncertain,
                    "num_texts_not_the_targets": len(departures),
                    "texts_are_checked": any(each.target is not None for each in readings),
                    "replay_seconds": seconds,
                }
            }
        )
    return Replay(
        in_own_tokens=list(own),
        folders=list(folders.values()),
        num_texts=len(texts),
        num_left_out=left_out,
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
