"""The folder that a replay leaves for each drafter: a run's, as if the drafter had decoded."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from lm_eval_specfair.decoding.counters import repeated_ngrams
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_folder import head_facts
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.text_script import script_fields
from lm_eval_specfair.records import (
    RUN_FILE,
    Record,
    RecordWriter,
    Settings,
    read_blocks,
    read_records,
    read_run,
    record_files,
    write_run,
)
from lm_eval_specfair.records.provenance import now, provenance
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, collecting, write_pieces
from lm_eval_specfair.replays.certain_counts import certain_counts
from lm_eval_specfair.replays.drafters.own_tokens import num_accepted_bytes
from lm_eval_specfair.replays.replay_models import ReplayedPair
from lm_eval_specfair.replays.replaying import Departure, ReplayedText
from lm_eval_specfair.replays.sources.replay_sources import TextSource
from lm_eval_specfair.text_lines import num_bytes

_STATE_FILE = "replay.json"
_decode_departure = msgspec.json.Decoder(Departure).decode

# Fields of a decoded record that a replay does not measure.
_TIMES = re.compile("baseline_.*|.*_seconds|num_active_rows_sum")
_NOT_MEASURED = [name for name in Record.__struct_fields__ if _TIMES.fullmatch(name)]


class ReplayFolder:
    """A run's folder under way: records at once, `run.json` at the end.

    What is replayed stands in `replay.json` until then, so that the same replay, once killed, goes
    on where it was.

    Attributes:
        done: Requests that are on record.
        is_finished: Whether an earlier call of this replay came to the end here.
    """

    def __init__(self, path: Path, replay: Mapping[str, Any]) -> None:
        """Read what is there; nothing is written yet.

        Raises:
            ConfigError: If that is of anything but this replay.
        """
        self.path, self._replay = path, dict(replay)
        self.done: set[str] = set()
        self.is_finished = (path / RUN_FILE).exists()
        self._writer: RecordWriter | None = None
        if self.is_finished:
            self._refuse_other(read_run(path).get("replay"))
        elif (path / _STATE_FILE).exists():
            self._refuse_other(_state(path / _STATE_FILE))
            self.done = {record.request_id for record in read_records(path)}
        elif path.is_dir() and record_files(path):
            self._refuse_other(None)

    def _refuse_other(self, found: object) -> None:
        if not isinstance(found, dict):
            raise ConfigError(f"{self.path} already holds records; name another folder with -o")
        keys = dict.fromkeys((*self._replay, *found))
        differing = [key for key in keys if found.get(key) != self._replay.get(key)]
        if differing:
            raise ConfigError(
                f"{self.path} holds a replay with other {', '.join(differing)}; name another "
                "folder with -o"
            )

    def begin(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: If it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"-o {self.path} cannot be used ({error.strerror}); name a folder that can be "
                "written"
            ) from None
        write_file(self.path / _STATE_FILE, json.dumps(self._replay, indent=2) + "\n")
        self._writer = RecordWriter(self.path)

    def write(self, record: Record) -> None:
        """Append a record, unless its request has one."""
        if self._writer is not None and record.request_id not in self.done:
            self._writer.write(record)
            self.done.add(record.request_id)

    def finish(self, run: Mapping[str, Any], pieces: TokenPieces | None = None) -> None:
        """Write what tokens spell, then `run.json`; only now is the folder a run's."""
        if self._writer is not None:
            self._writer.close()
            ids: set[int] = set()
            records = tally_of(collecting(read_blocks(self.path), ids)).to_json(run)
            if pieces is not None:
                write_pieces(self.path, pieces.of(ids))
            totals = {**run.get("totals", {}), "records": records}
            write_run(self.path, {**run, "replay": self._replay, "totals": totals})
            (self.path / _STATE_FILE).unlink(missing_ok=True)


def _state(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}; name another folder with -o") from None


class Departures:
    """Texts that are not the target's own, in `departures.jsonl`: a line each, at once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "departures.jsonl"
        self.found: dict[str, Departure] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n")[:-1]:
                departure = _decode_departure(line)
                self.found[departure.request_id] = departure

    def add(self, departure: Departure) -> None:
        if departure.request_id not in self.found:
            self.found[departure.request_id] = departure
            with self._path.open("ab+") as file:
                file.seek(0)  # of a killed process there may be half a line
                file.truncate(file.read().rfind(b"\n") + 1)
                file.write(msgspec.json.encode(departure) + b"\n")


def replay_record(
    one: ReplayedText,
    decoded: Record | None,
    *,
    spelled: Spelling | None = None,
    in_own_tokens: bool = False,
    some_uncertain: bool = False,
) -> Record:
    """The record of a replayed text: what the source's record says, with this drafter's counts.

    `spelled` says what the text's tokens spell, for a count in bytes; `in_own_tokens`, that they
    are the drafter's, not the target's; `some_uncertain`, that token ids of some texts are.
    """
    text, counted = one.text, one.counters
    length = one.num_speculative_tokens
    num_ngrams, num_repeated = repeated_ngrams(text.response, 4)
    steps, drafted, accepted = one.expected or (None, None, None)
    fields: dict[str, Any] = {
        "num_4grams": num_ngrams,
        "num_repeated_4grams": num_repeated,
        "num_spec_steps": counted.num_steps,
        "num_draft_tokens": sum(counted.drafted_per_step),
        "num_accepted_draft_tokens": sum(counted.accepted_per_step),
        "num_examined_draft_tokens": counted.num_examined,
        "acceptance_histogram": counted.histogram(length),
        "drafted_per_step": counted.drafted_per_step,
        "accepted_per_step": counted.accepted_per_step,
        "rejected_token_ids": counted.rejected_tokens,
        "discarded_token_ids": counted.discarded_per_step,
        "expected_spec_steps": steps,
        "expected_draft_tokens": drafted,
        "expected_accepted_draft_tokens": accepted,
        **counted.distribution_fields(measured=counted.num_positions > 0),
        "settings": Settings(
            num_speculative_tokens=length,
            temperature=text.temperature,
            top_k=text.top_k,
            top_p=text.top_p,
            drafter_temperature=text.drafter_temperature,
        ),
    }
    if some_uncertain:
        fields |= certain_counts(text, counted)
    if spelled is not None:
        fields["num_accepted_bytes"] = num_accepted_bytes(
            counted.accepted_per_step, text.response, spelled
        )
    if decoded is not None and in_own_tokens:
        fields |= {
            "num_prompt_tokens": len(text.prompt),
            "num_generated_tokens": len(text.response),
            "generated_token_ids": text.response,
        }
    if decoded is not None:
        fields.setdefault("num_covered_tokens", None)  # of the drafter that decoded it
        return structs.replace(decoded, **fields, **dict.fromkeys(_NOT_MEASURED))
    return Record(
        request_id=text.request_id,
        task=text.task,
        doc_id=text.doc_id,
        request_type="generate_until",
        group_fields=text.group_fields,
        num_prompt_tokens=len(text.prompt),
        num_generated_tokens=len(text.response),
        num_generated_bytes=num_bytes(text.text),
        num_generated_chars=len(text.text),
        **script_fields(text.text, TaskFacts(text.task), text.group_fields),
        finish_reason=text.finish_reason,
        generated_token_ids=text.response,
        generated_text=text.text,
        **fields,
    )


def replay_run_info(
    sources: Sequence[TextSource],
    model: ReplayedPair,
    length: int,
    seed: int,
    *,
    in_own_tokens: bool = False,
    drafter_temperature: float | None = None,
    head: Eagle3Head | None = None,
) -> dict[str, Any]:
    """`run.json`: the source's settings where it is a run, with this drafter in them."""
    runs = [source.run for source in sources if source.run]
    settings = dict(runs[0].get("settings") or {}) if runs else {"seed": seed}
    for name in (
        "drafter_vocabulary",
        "drafter_head",
        "drafter_temperature",
    ):  # of the drafter that decoded it
        settings.pop(name, None)
    if head is not None:
        settings["drafter_head"] = head_facts(head)
    if drafter_temperature is not None:
        settings["drafter_temperature"] = drafter_temperature
    if in_own_tokens:
        settings["drafter_vocabulary"] = {"method": "own_tokens"}
    if not runs and model.target is not None:
        settings |= {"target": model.target, "target_weights": model.target_weights}
    tasks = {name: task for run in runs for name, task in (run.get("tasks") or {}).items()}
    return {
        **provenance(),
        "finished": now(),
        "backend": "replay",
        "settings": settings
        | {
            "num_speculative_tokens": length,
            "drafter": model.drafter,
            "drafter_weights": model.drafter_weights,
        },
        "tasks": tasks,
    }
