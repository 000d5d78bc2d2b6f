"""The data sets behind the suites, as they are on the hub: names, columns, splits, licences.

One place, `suite_sources.json`, for what the loader checks, the data cards say and the tests build
rows from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set on the hub.

    Attributes:
        hub_id: Its name there, and the folder of a mirror.
        columns: Column -> type, in the words of `datasets`; a class label lists its names.
        read: The columns that tasks read: what a mirror made by hand has to hold.
        shared: Columns that rows about one paragraph share, or that are the answer: few-shot
            examples differ from the document in all of them. Of FLORES, as `task.paired` has them.
        splits: Those that the suites read: what is evaluated, then what few-shot examples are from.
        is_script: Whether `main` holds a loading script, which datasets 4 and later refuse.
        is_gated: Whether the hub asks for an account that has accepted the terms.
        values: What a text column may hold, where it is one of a few.
        nullable: Columns that may be null.
        licence: As its card names it.
        citation: Author, year, and where the paper is.
        known_from: Where columns, configurations and values were read.
    """

    hub_id: str
    columns: Mapping[str, str]
    read: Sequence[str]
    shared: Sequence[str]
    splits: Sequence[str]
    licence: str
    citation: str
    known_from: str
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nullable: Sequence[str] = ()
    is_script: bool = False
    is_gated: bool = False


_FILE = Path(__file__).with_suffix(".json")
SOURCES: dict[str, Source] = {
    hub_id: Source(hub_id=hub_id, **facts)
    for hub_id, facts in json.loads(_FILE.read_text(encoding="utf-8")).items()
}
