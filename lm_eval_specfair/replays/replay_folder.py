"""The folder that a replay leaves for each drafter: a run's, as if the drafter had decoded."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs
from transformers import PreTrainedModel

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.counters import repeated_ngrams
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Record, RecordWriter, Settings, read_blocks, write_run
from lm_eval_specfair.records.provenance import now, provenance
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.replays.one_pass import OnePass
from lm_eval_specfair.replays.own_tokens import num_accepted_bytes
from lm_eval_specfair.replays.replay_models import resolved
from lm_eval_specfair.replays.replay_sources import TextSource
from lm_eval_specfair.replays.replaying import ReplayedText
from lm_eval_specfair.text_lines import num_bytes

# Fields of a decoded record that a replay does not measure.
_TIMES = re.compile("baseline_.*|.*_seconds|num_active_rows_sum")
_NOT_MEASURED = [name for name in Record.__struct_fields__ if _TIMES.fullmatch(name)]


class ReplayFolder:
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
        self.write = self._writer.write

    def finish(self, run: dict[str, Any]) -> None:
        """Write `run.json`; only now is the folder a run's."""
        self._writer.close()
        records = tally_of(read_blocks(self._path)).to_json(run)
        write_run(self._path, run | {"totals": {**run.get("totals", {}), "records": records}})


def replay_record(
    one: ReplayedText,
    decoded: Record | None,
    *,
    spelled: Spelling | None = None,
    in_own_tokens: bool = False,
) -> Record:
    """The record of a replayed text: what the source's record says, with this drafter's counts.

    `spelled` says what the text's tokens spell, for a count in bytes; `in_own_tokens`, that they
    are the drafter's, not the target's.
    """
    text, counted = one.text, one.counters
    length = one.num_speculative_tokens
    num_ngrams, num_repeated = repeated_ngrams(text.response, 4)
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
        **counted.distribution_fields(measured=counted.num_positions > 0),
        "settings": Settings(
            num_speculative_tokens=length,
            temperature=text.temperature,
            top_k=text.top_k,
            top_p=text.top_p,
        ),
    }
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
        finish_reason=text.finish_reason,
        generated_token_ids=text.response,
        generated_text=text.text,
        **fields,
    )


def replay_run_info(
    sources: Sequence[TextSource],
    drafter: str,
    length: int,
    target: str | None,
    model: PreTrainedModel | None,
    reader: OnePass | None,
    seed: int,
    *,
    in_own_tokens: bool = False,
) -> dict[str, Any]:
    """`run.json`: the source's settings where it is a run, with this drafter in them."""
    runs = [source.run for source in sources if source.run]
    settings = dict(runs[0].get("settings") or {}) if runs else {}
    if not runs and target is not None and reader is not None:
        settings |= {"target": loading.shown_name(resolved(target))}
    settings.pop("drafter_vocabulary", None)  # of the drafter that decoded it
    if in_own_tokens:
        settings["drafter_vocabulary"] = {"method": "own_tokens"}
    tasks = {name: task for run in runs for name, task in (run.get("tasks") or {}).items()}
    return {
        **provenance(),
        "finished": now(),
        "backend": "replay",
        "settings": settings
        | {
            "seed": settings.get("seed", seed),
            "num_speculative_tokens": length,
            "drafter": loading.shown_name(resolved(drafter)),
            "drafter_weights": None if model is None else weights_digest(resolved(drafter), model),
        },
        "tasks": tasks,
    }
