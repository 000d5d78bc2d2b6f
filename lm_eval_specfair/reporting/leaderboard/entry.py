"""A leaderboard entry: one JSON file whose every figure can be computed again from its records.

An entry is a folder: `submission.json`, `run.json` and the run's records. The models here are its
schema (`specfair submission schema`); `reporting.leaderboard.packing` makes one,
`reporting.leaderboard.validation` compares one with what its records say. Only the fields of
`Entry` are the submitter's own words.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line

SUBMISSION_FILE = "submission.json"
SUBMISSION_VERSION: Literal[1] = 1

_LARGEST = 16 << 20  # bytes; thousands of groups fit


def _plain_name(name: str) -> str:
    if name != Path(name).name or name.startswith(".") or "\\" in name or "\0" in name:
        raise ValueError("must be the plain name of a file beside the submission")
    return name


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be one line of visible text")
    return text


Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain_name)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Entry(_Model):
    """What the submitter says; nothing can check it.

    Attributes:
        name: The entry's name on the board.
        submitter: Who answers for it.
        url: Where to read more.
    """

    name: Text
    submitter: Text | None = None
    url: Annotated[str, Field(max_length=300, pattern=r"^https://[!-~]+$")] | None = None


class File(_Model):
    """One file beside the submission.

    Attributes:
        name: Its name, without a folder.
        sha256: Digest of its content.
    """

    name: FileName
    sha256: Digest


class Decoding(_Model):
    """Settings that requests were decoded with.

    Attributes:
        num_speculative_tokens: Tokens drafted per step at most.
        temperature: 0 is greedy.
        top_k: Number of tokens kept, or null.
        top_p: Probability mass kept, or null.
        requests: How many requests.
    """

    num_speculative_tokens: Count
    temperature: float
    top_k: int | None
    top_p: float | None
    requests: Count


class Suite(_Model):
    """What was asked; entries are ranked against others of the same suite.

    Attributes:
        tasks: Requests by task.
        requests_sha256: Digest of all request ids, which hold digests of the prompts.
    """

    tasks: dict[str, Count]
    requests_sha256: Digest


class FigureModel(_Model):
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


class StandingModel(_Model):
    """How a run serves its groups in one figure.

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


class Figures(_Model):
    """All figures, by the names of the glossary; what was not measured is null.

    Attributes:
        group_by: What makes a group.
        min_requests: The smallest group that counts.
        num_resamples: Resamples behind each interval.
        confidence: Of the intervals.
        agreeing_baselines: Greedy requests whose tokens equal those of plain decoding.
        differing_baselines: Greedy requests whose tokens don't.
        overall: Of all requests together.
        groups: By group and figure.
        standings: Mean over groups and extremes, of the figures that every group has.
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


class Provenance(_Model):
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
    """

    specfair_version: str | None
    git_commit: str | None
    command: list[str]
    started: str | None
    finished: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    settings: dict[str, Any]


class Submission(_Model):
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
    records: Annotated[list[File], Field(min_length=1)]


def read_submission(path: Path) -> Submission:
    """A submission from its file.

    Raises:
        ConfigError: If the file cannot be read or does not fit the schema; the field is named.
    """
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
        return Submission.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explained(error)}") from None


def explained(error: ValidationError) -> str:
    """The first field that does not fit, what was expected and what came."""
    first = error.errors(include_url=False)[0]
    field = one_line(".".join(str(part) for part in first["loc"])) or "the file"
    got = first["input"]
    shown = f"{got!r:.60}" if isinstance(got, (str, int, float)) else f"a {type(got).__name__}"
    more = error.error_count() - 1
    others = f" ({more} more fields don't fit)" if more else ""
    return f"{field:.200}: {one_line(first['msg'])}, got {shown}{others}"


def to_text(submission: Submission) -> str:
    """The file's content."""
    return submission.model_dump_json(indent=2) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of submissions."""
    return Submission.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    }
