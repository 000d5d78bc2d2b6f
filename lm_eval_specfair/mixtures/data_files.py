"""Data sets in the forms that trainers read, and where each row came from.

Files hold the fields that trainers know and no others: SpecForge 0.2 hands every further column to
its chat template. What each row was drawn from is in a file beside them, line by line.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import cannot_write, digest, staged
from lm_eval_specfair.mixtures.text_rows import CONVERSATIONS, TextRow
from lm_eval_specfair.mixtures.weighted_draw import WeightedDraw
from lm_eval_specfair.reporting.format import json_text

TRACE_FILE, MANIFEST_FILE = "drawn_rows.jsonl", "data_set.json"
SCHEMA_VERSION = 1

Fields = dict[str, Any]


def _conversation(row: TextRow) -> list[Mapping[str, Any]]:
    if row.turns:
        return list(row.turns)
    turns: list[Mapping[str, Any]] = [{"role": "user", "content": row.prompt}]
    if row.response is not None:
        turns.append({"role": "assistant", "content": row.response})
    return turns


def _turns_as(field: str, row: TextRow) -> Fields:
    tools = {} if row.tools is None else {"tools": row.tools}
    return {field: _conversation(row), **tools}


def _prompt_completion(row: TextRow) -> Fields:
    if row.turns:
        return {"prompt": list(row.turns[:-1]), "completion": [row.turns[-1]]}
    answer = {} if row.response is None else {"completion": row.response}
    return {"prompt": row.prompt, **answer}


def _text(row: TextRow) -> Fields:
    return {"text": (row.prompt or "") + (row.response or "")}


def _talks(rows: Sequence[TextRow]) -> bool:
    return all(row.turns or row.prompt for row in rows)


def _has_pairs(rows: Sequence[TextRow]) -> bool:
    if any(row.turns for row in rows):
        return all(len(row.turns) > 1 and row.turns[-1]["role"] == "assistant" for row in rows)
    return all(row.prompt for row in rows)


def _has_texts(rows: Sequence[TextRow]) -> bool:
    return not any(row.turns or row.response is None for row in rows)


FORMS: dict[str, tuple[Callable[[Sequence[TextRow]], bool], Callable[[TextRow], Fields]]] = {
    **{field: (_talks, functools.partial(_turns_as, field)) for field in CONVERSATIONS},
    "prompt_completion": (_has_pairs, _prompt_completion),
    "text": (_has_texts, _text),
}
"""By the file's stem: whether rows have this form, and a row in it."""

READERS = {
    "conversations": "speculators (prepare-data --data) and SpecForge (data.train_data_path)",
    "messages": "TRL, and speculators (regenerate-responses)",
    "prompt_completion": "TRL, which then learns the completions alone",
    "text": "TRL, as plain text",
}


def forms_of(rows: Sequence[TextRow], draw: WeightedDraw) -> list[str]:
    """The forms that the drawn rows have, of `FORMS`."""
    used = [rows[one.place] for one in draw.rows]
    return [name for name, (fits, _) in FORMS.items() if fits(used)]


def write_data_set(
    directory: Path,
    rows: Sequence[TextRow],
    draw: WeightedDraw,
    *,
    seed: int,
    unit: str,
    shares: Mapping[str, float],
) -> list[Path]:
    """Write a data set into a new or empty folder, in every form that its rows have.

    `drawn_rows.jsonl` has for each line of these files the file, line, group and epoch that it was
    drawn from, `data_set.json` digests of the files that were read and what each group has.

    Raises:
        ConfigError: If the folder holds something or cannot be written.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"--data-out must be a new or empty folder, got {directory}")
    used = [rows[one.place] for one in draw.rows]
    forms = forms_of(rows, draw)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "rows": len(draw.rows),
        "unit": unit,
        "size": round(draw.size, 3),
        "sources": {name: digest(Path(name)) for name in sorted({row.file for row in rows})},
        "forms": sorted(f"{name}.jsonl" for name in forms),
        "groups": {
            name: {
                "share": round(shares[name], 6),
                "drawn_share": round(one.drawn / draw.size, 6),
                "rows": one.rows,
                "drawn": round(one.drawn, 3),
                "available": round(one.available, 3),
                "epochs": round(one.epochs, 4),
            }
            for name, one in draw.groups.items()
        },
    }
    try:
        with staged(directory, last=MANIFEST_FILE) as fresh:
            for name in forms:
                _, write = FORMS[name]
                _write_lines(fresh / f"{name}.jsonl", [write(row) for row in used])
            traces = [
                {
                    "file": rows[one.place].file,
                    "number": rows[one.place].number,
                    "group": one.group,
                    "epoch": one.epoch,
                }
                for one in draw.rows
            ]
            _write_lines(fresh / TRACE_FILE, traces)
            (fresh / MANIFEST_FILE).write_text(json_text(manifest) + "\n", encoding="utf-8")
            names = [path.name for path in fresh.iterdir()]
    except OSError as error:
        raise cannot_write(directory, error, "name a folder that can be written") from None
    return [directory / name for name in sorted(names)]


def _write_lines(path: Path, rows: Sequence[Fields]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
