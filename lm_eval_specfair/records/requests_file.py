"""`requests.jsonl`: what each request of a run asked, beside the records of what came of it.

A file of its own, since a report never looks at it and prompts may be long. With it a run can be
replayed with another drafter without its tasks, its target or lm-eval.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.schema import Count

REQUESTS_FILE = "requests.jsonl"


class AskedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a `generate_until` request asked.

    Attributes:
        request_id: As in its record.
        prompt_token_ids: After the chat template and truncation, as the model read them.
        max_new_tokens: Length limit of its text.
    """

    request_id: str
    prompt_token_ids: list[Count]
    max_new_tokens: Count


def arguments_digest(arguments: Sequence[Any]) -> str:
    """What ends a `request_id`: a digest of lm-eval's arguments of a request."""
    text = json.dumps(arguments, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def sample_arguments(value: object) -> list[list[Any]]:
    """The arguments of each request in lm-eval's sample of a document.

    Before 0.4.3 `arguments` is a list of lists, then lists are named `gen_args_0`, their items
    `arg_0`. What is neither has none.
    """
    requests = value
    if isinstance(value, dict):
        requests = [value[name] for name in sorted(value, key=_place)]
    if not isinstance(requests, list):
        return []
    return [
        [one[name] for name in sorted(one, key=_place)] if isinstance(one, dict) else list(one)
        for one in requests
        if isinstance(one, (dict, list, tuple))
    ]


def _place(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def append_requests(folder: Path, requests: Iterable[AskedRequest], rank: int = 0) -> None:
    """Add lines to the file of this process; a half line of a killed process is cut off first.

    Raises:
        ConfigError: If the file cannot be written.
    """
    path = folder / (REQUESTS_FILE if rank == 0 else f"requests.rank{rank}.jsonl")
    lines = b"".join(msgspec.json.encode(request) + b"\n" for request in requests)
    try:
        with path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def request_files(folder: Path) -> list[Path]:
    """The files of a run's requests, one of each process."""
    return sorted(folder.glob("requests*.jsonl"))


def read_requests(folder: Path) -> dict[str, AskedRequest]:
    """The requests of a run by id; empty where it was made before they were kept.

    Raises:
        ConfigError: If a line is not such a request.
    """
    requests, decoder = {}, msgspec.json.Decoder(AskedRequest)
    for path in request_files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # of a process that was killed
                    break
                try:
                    request = decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path}:{number} is not a request: {error}") from None
                requests[request.request_id] = request
    return requests
