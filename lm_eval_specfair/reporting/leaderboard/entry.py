"""A leaderboard entry: one JSON file whose every estimate can be computed again from its records.

An entry is a folder: `submission.json`, `run.json` and the run's records. The models here are its
schema, their docstrings included. Only the fields of `Entry` are the submitter's own words.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.unique_keys import RepeatedKeyError, json_data

SUBMISSION_FILE = "submission.json"
SUBMISSION_VERSION: Literal[1] = 1

_LARGEST = 16 << 20  # bytes; thousands of groups fit
_LONGEST = 200
_URL = r"^https://[!-~]+$"

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST)]
FileName = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Url = Annotated[str, msgspec.Meta(max_length=300, pattern=_URL)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Entry(_Model, frozen=True, kw_only=True):
    """What the submitter says; nothing can check it.

    Attributes:
        name: The entry's name on the board.
        submitter: Who answers for it.
        url: Where to read more.
    """

    name: Text
    submitter: Text | None = None
    url: Url | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for text that a page or a terminal could not show as one line."""
        for field in ("name", "submitter"):
            text = getattr(self, field)
            visible = text is None or (text.isprintable() and text.strip())
            if not visible or len(text or "") > _LONGEST:
                raise ValueError(
                    f"{field} must be one line of visible text, at most {_LONGEST} characters, got "
                    f"{text!r:.60}"
                )
        if self.url is not None and not re.fullmatch(_URL, self.url):
            raise ValueError(f"url must begin with https:// and be one word, got {self.url!r:.60}")


class File(_Model, frozen=True, kw_only=True):
    """One file beside the submission.

    Attributes:
        name: Its name, without a folder.
        sha256: Digest of its content.
    """

    name: FileName
    sha256: Digest

    def __post_init__(self) -> None:
        """Raise ValueError for a name that could lead out of the folder."""
        name = self.name
        if name != Path(name).name or name.startswith(".") or "\\" in name or "\0" in name:
            raise ValueError(f"name must be that of a file beside the submission, got {name!r:.60}")


class Decoding(_Model, frozen=True, kw_only=True):
    """Settings that requests were decoded with.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most.
        temperature: 0 is greedy.
        top_k: Number of tokens kept, or null.
        top_p: Probability mass kept, or null.
        verification: How sampled drafts were judged: `token`, as in older entries, or `block`.
        drafter: The requests' drafter, where groups have several.
        drafter_temperature: The drafter's own, where it was not the texts'.
        requests: How many requests.
    """

    num_speculative_tokens: Count
    temperature: float
    top_k: int | None
    top_p: float | None
    requests: Count
    verification: str = "token"
    drafter: str | None = None
    drafter_temperature: float | None = None


class Suite(_Model, frozen=True, kw_only=True):
    """What was asked; entries are ranked against others of the same suite.

    Attributes:
        tasks: Requests by task.
        requests_sha256: Digest of all request ids, which hold digests of the prompts.
        groups_sha256: Digest of the groups that each request belongs to; null in older entries.
        baselines_sha256: Digest of the ids of requests that were decoded plainly too; null in
            older entries.
    """

    tasks: dict[str, Count]
    requests_sha256: Digest
    groups_sha256: Digest | None = None
    baselines_sha256: Digest | None = None


class FigureModel(_Model, frozen=True, kw_only=True):
    """A number with its 95% interval.

    Attributes:
        value: The estimate.
        low: Lower end, or null where there is too little to tell.
        high: Upper end, or null.
        n: Requests that it rests on.
    """

    value: float
    low: float | None
    high: float | None
    n: Count


class StandingModel(_Model, frozen=True, kw_only=True):
    """How a run serves its groups, by one metric.

    Attributes:
        mean: Mean over groups, each counting the same.
        worst: Of the worst-served group.
        worst_group: Its name.
        best: Of the best-served group.
        best_group: Its name.
    """

    mean: FigureModel
    worst: FigureModel
    worst_group: str
    best: FigureModel
    best_group: str


class Figures(_Model, frozen=True, kw_only=True):
    """All estimates, by metric; what was not measured is null.

    Attributes:
        group_by: What makes a group.
        min_requests: The smallest group that counts.
        num_resamples: Resamples behind each interval.
        confidence: Of the intervals.
        agreeing_baselines: Greedy requests whose tokens equal those of plain decoding.
        differing_baselines: Greedy requests whose tokens differ from them.
        plain_seconds_per_token: Of the requests that were decoded plainly too; null in older
            entries.
        overall: Of all requests together.
        groups: By group and metric.
        standings: Mean over groups and extremes, of the metrics that every group has.
    """

    group_by: str
    min_requests: Count
    num_resamples: Count
    confidence: float
    agreeing_baselines: Count
    differing_baselines: Count
    overall: dict[str, FigureModel | None]
    groups: dict[str, dict[str, FigureModel | None]]
    standings: dict[str, StandingModel]
    plain_seconds_per_token: float | None = None


class Provenance(_Model, frozen=True, kw_only=True):
    """How the run was made, as `run.json` says.

    Attributes:
        specfair_version: Of this package.
        git_commit: Of its checkout, or null.
        command: What was run.
        started: When.
        finished: When.
        versions: Of other packages.
        hardware: What it ran on.
        settings: Target, drafter, digests of their weights, dtype, batch size and so on.
        load: What other processes took of the machine; null where it was not noted.
    """

    specfair_version: str | None
    git_commit: str | None
    command: list[str]
    started: str | None
    finished: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    settings: dict[str, Any]
    load: dict[str, Any] | None = None


class Submission(_Model, frozen=True, kw_only=True):
    """One entry of the leaderboard.

    Attributes:
        schema_version: Of this schema.
        entry: The submitter's words.
        provenance: How the run was made.
        suite: What was asked.
        decoding: How requests were decoded, the most frequent way first.
        figures: What came out.
        run: The run's description.
        records: The run's records, one file for each process.
    """

    schema_version: Literal[1]
    entry: Entry
    provenance: Provenance
    suite: Suite
    decoding: list[Decoding]
    figures: Figures
    run: File
    records: Annotated[list[File], msgspec.Meta(min_length=1)]


def read_submission(path: Path) -> Submission:
    """A submission from its file; ConfigError names the field that does not fit."""
    if path.is_symlink():
        raise ConfigError(f"{path} is a link; expected the file itself")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; expected what `specfair submission pack` wrote"
        ) from None
    if len(content) > _LARGEST:
        raise ConfigError(f"{path}: expected at most {_LARGEST >> 20} MiB, got more")
    try:
        submission = msgspec.json.decode(content, type=Submission)
        json_data(content)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {explained(error)}") from None
    return submission


def explained(error: Exception) -> str:
    """What does not fit, after the field where it is."""
    reason, _, place = str(error).partition(" - at `$")
    field = place.rstrip("`").lstrip(".")
    return f"{one_line(field):.200}: {one_line(reason)}" if field else one_line(reason)


def to_text(submission: Submission) -> str:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(submission)).decode() + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of submissions."""
    content = msgspec.json.schema(Submission)
    parts = content["$defs"]
    top = parts.pop("Submission")
    top["properties"]["schema_version"] = {"const": SUBMISSION_VERSION}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": parts}
