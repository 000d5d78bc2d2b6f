"""lm-eval's requests: their ids, the group fields of their documents, and jobs for a decoder."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.records.requests_file import arguments_digest

# Fields of a document that may name a group; what else a document holds is not repeated.
GROUP_FIELDS = (
    "language", "lang", "locale", "source_language", "other_language", "script", "family",
    "region", "dialect", "domain", "category", "subject", "subset", "topic", "genre", "register",
    "resource_class",
)  # fmt: skip


def group_fields(doc: object) -> dict[str, str | list[str]]:
    """The fields of a document that may name its groups: a text each, or a list of several."""
    fields: dict[str, str | list[str]] = {}
    for name in GROUP_FIELDS:
        value = doc.get(name) if isinstance(doc, dict) else None
        if isinstance(value, str):
            fields[name] = str(value)
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            fields[name] = [str(item) for item in value]
    return fields


def request_id(place: str, arguments: Sequence[Any]) -> str:
    """A request's place (task, document, number, repeat) and a digest of its arguments."""
    return f"{place}/{arguments_digest(arguments)}"


def request_ids(requests: Iterable[Instance]) -> list[str | None]:
    """An id for each request, the same in every run that asks the same.

    lm-eval passes one object several times: for `repeats`, which are requests of their own, and
    beyond these as padding between processes, which is not recorded (None).
    """
    seen: Counter[int] = Counter()
    names: list[str | None] = []
    for request in requests:
        repeat = seen[id(request)]
        seen[id(request)] += 1
        if repeat >= (request.repeats or 1):
            names.append(None)
            continue
        place = f"{request.task_name}/{request.doc_id}/{request.idx}/{repeat}"
        names.append(request_id(place, request.args))
    return names


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One of lm-eval's requests, ready to be decoded.

    Attributes:
        place: Index of its answer in what lm-eval gets.
        is_padding: Whether it fills up another process's share, and is not recorded.
        error: Why its prompt could not be read, or None.
    """

    place: int
    instance: Instance
    request: Request
    config: DecodeConfig
    is_padding: bool
    error: Exception | None = None

    @property
    def task(self) -> str:
        """lm-eval's task name."""
        return self.instance.task_name or ""
