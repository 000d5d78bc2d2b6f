"""The runs that a policy is chosen from: their drafters, and their requests that generate text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import canonical_key, group_of
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.comparison import pairing
from lm_eval_specfair.metrics.comparison.pairing import Trace
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts
from lm_eval_specfair.records import TEXTS, Record
from lm_eval_specfair.reporting.format import listed
from lm_eval_specfair.reporting.runs import RunReader

MAX_LENGTH = 64
"""The longest draft that can be asked about."""

_TOKENS = "generated_token_ids"
_EMBEDDED = "embedded/drafter"
# How often a run also decodes plainly.
_MAY_DIFFER = ("baseline", "lossless_checks")
_MOST_REASONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRun:
    """A run in which all requests draft one number of tokens."""

    length: int
    requests: list[tuple[Record, TaskFacts]]  # that generate text, without texts
    traces: Mapping[str, Trace]  # by request; empty where none were asked for


def settings_of(reader: RunReader) -> Mapping[str, Any]:
    """What a run was decoded with, as it says."""
    known = reader.info.get("settings")
    return known if isinstance(known, dict) else {}


def drafter_of(reader: RunReader) -> str | None:
    """A run's drafter by the name that `drafter=` takes; None where it does not say."""
    name = settings_of(reader).get("drafter")
    if not isinstance(name, str) or not name:
        return None
    if name == _EMBEDDED or name.startswith(_EMBEDDED + "-"):
        return "embedded" + one_line(name.removeprefix(_EMBEDDED))
    return one_line(name)


def by_drafter(readers: Sequence[RunReader]) -> dict[str | None, list[RunReader]]:
    """The runs of each drafter, by the name in the drafter's first run.

    Runs have one drafter where they name the same weights, or the same drafter without weights.

    Raises:
        ConfigError: If drafters of different weights have one name, or they drafted at different
            temperatures of their own.
    """
    own = {settings_of(reader).get("drafter_temperature") for reader in readers}
    if len(own) > 1:
        raise ConfigError(
            f"the runs' drafters drew at different temperatures ({', '.join(map(str, own))}), "
            "between which is not chosen: name runs of one, and write drafter_temperature into the "
            "policy"
        )
    names: dict[object, str | None] = {}
    found: dict[str | None, list[RunReader]] = {}
    for reader in readers:
        weights, name = settings_of(reader).get("drafter_weights"), drafter_of(reader)
        key = weights if isinstance(weights, str) else (name,)
        if key not in names:
            if name in found:
                raise ConfigError(
                    f"{reader.folder}: its drafter {name!r:.100} has other weights than the one of "
                    f"that name in {found[name][0].folder}; expected a name for each drafter"
                )
            names[key] = name
        found.setdefault(names[key], []).append(reader)
    return found


def read_generated(reader: RunReader, group_by: str | None = None) -> PolicyRun:
    """A run's requests that generate text; with `group_by` also what they are paired by.

    Raises:
        ConfigError: If its draft length is not one number, drafts were judged by blocks, or it was
            decoded with several drafters.
    """
    if settings_of(reader).get("routes"):
        raise ConfigError(
            f"{reader.folder}: it was decoded with a policy of drafters; expected a run, or a "
            "replay of it, for each drafter"
        )
    without = TEXTS if group_by is None else tuple(name for name in TEXTS if name != _TOKENS)
    requests, traces = [], {}
    for record, facts in reader.records(without):
        if record.request_type != "generate_until":
            continue
        if group_by is not None:
            group = group_of(facts, record.group_fields, canonical_key(group_by))
            traces[record.request_id] = pairing.trace(record, group, is_replayed=True)
        # Lines are read whole.
        requests.append((structs.replace(record, **dict.fromkeys(TEXTS)), facts))
    histograms = (record.acceptance_histogram for record, _ in requests if not record.settings)
    lengths = {
        *(record.settings.num_speculative_tokens for record, _ in requests if record.settings),
        *(len(histogram) - 1 for histogram in histograms if histogram is not None),
    }
    if any(record.settings and record.settings.verification == "block" for record, _ in requests):
        raise ConfigError(
            f"{reader.folder}: its drafts were judged by blocks, which does not tell what other "
            "draft lengths would have kept; run it without verification=block"
        )
    if len(lengths) != 1 or not (length := lengths.pop()):
        got = ", ".join(map(str, sorted(each or 0 for each in lengths))) or "no drafts"
        raise ConfigError(
            f"{reader.folder}: expected a run in which all requests draft one number of tokens, "
            f"got {got}; run it with num_speculative_tokens=4, say"
        )
    return PolicyRun(length=length, requests=requests, traces=traces)


def given_costs(costs: tuple[float, float, float] | None, length: int) -> GivenCosts | None:
    """Costs of a step that drafts so many tokens, as somebody names them.

    Raises:
        ConfigError: If no step can cost that.
    """
    if costs is None:
        return None
    draft, verify, overhead = costs
    if not (draft >= 0 and verify > 0 and draft * length + verify + overhead > 0):
        raise ConfigError(
            "costs must be c at least 0, v above 0, and add up to more than nothing, got "
            f"{draft:g},{verify:g},{overhead:g}"
        )
    return GivenCosts(draft=draft, verify=verify, overhead=overhead, length=length)


def refuse_unpaired(readers: Sequence[RunReader], runs: Sequence[PolicyRun]) -> int:
    """The number of greedy texts that differ from the first run's, by rounding.

    Raises:
        ConfigError: If a run has other requests than the first, another target or other settings,
            or texts differ that cannot by rounding.
    """
    base, first = readers[0], runs[0]
    differing = 0
    for reader, run in zip(readers[1:], runs[1:], strict=True):
        reasons = pairing.different_settings(_comparable(base), _comparable(reader))
        reasons += pairing.different_requests(first.traces, run.traces)
        texts = pairing.text_agreement(first.traces, run.traces)
        if texts.differing and pairing.is_exact(base.info) and pairing.is_exact(reader.info):
            reasons.append(f"{texts.differing} greedy texts differ, such as {texts.examples[0]!r}")
        if reasons:
            raise ConfigError(
                f"cannot choose between the drafters of {base.folder} and {reader.folder}: "
                f"{listed(reasons, _MOST_REASONS, '; ')}. Expected runs or replays of the same "
                "requests to one target"
            )
        differing += texts.differing
    return differing


def _comparable(reader: RunReader) -> dict[str, Any]:
    settings = {
        name: value for name, value in settings_of(reader).items() if name not in _MAY_DIFFER
    }
    return {**reader.info, "settings": settings}
