"""A check that two runs made the same requests of one target, so that only the drafter differs.

A request keeps its id from run to run, and the id holds a digest of its prompt and arguments. What
else must agree is its group, what it was decoded with (but for the number of drafted tokens), and
whether it was also decoded without a drafter. Greedy requests have only one right text: where two
runs differ in it, one of them lost the target's.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from lm_eval_specfair.records import Record

MAY_DIFFER = frozenset(
    {
        "drafter",
        "drafter_head",
        "drafter_loading",
        "drafter_temperature",
        "drafter_vocabulary",
        "drafter_weights",
        "num_speculative_tokens",
        "verification",
        "routes",
    }
)
"""Settings of a run in which a comparison's runs may differ: what the comparison is about."""

EXACT_DTYPES = frozenset({"float32", "float64"})
"""Numbers wide enough that a greedy text does not hang on rounding."""

_MOST_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What is kept of a request to pair it."""

    task: str
    group: str
    demands: tuple[tuple[str, object], ...]  # what both runs must agree in, by name
    text: bytes | None  # digest of the tokens where there is one right text


@dataclass(frozen=True, kw_only=True, slots=True)
class TextAgreement:
    """Greedy requests whose tokens both runs recorded."""

    compared: int  # how many
    differing: int  # how many of them differ in their tokens
    examples: Sequence[str]  # ids of the first few that differ


def trace(record: Record, group: str, *, is_replayed: bool = False) -> Trace:
    """What is kept of a record; a replayed one may be compared with one that has a baseline."""
    settings = record.settings
    demands = {
        "request_type": record.request_type,
        "num_prompt_tokens": record.num_prompt_tokens,
        "temperature": None if settings is None else settings.temperature,
        "top_k": None if settings is None else settings.top_k,
        "top_p": None if settings is None else settings.top_p,
        "a plain baseline": record.baseline_seconds is not None,
    }
    if is_replayed:
        del demands["a plain baseline"]
    tokens, text = record.generated_token_ids, None
    if settings is not None and settings.temperature == 0 and tokens is not None:
        text = hashlib.blake2b(repr(tokens).encode(), digest_size=16).digest()
    return Trace(task=record.task, group=group, demands=tuple(demands.items()), text=text)


def different_settings(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """In what two runs' descriptions (`run.json`) differ and must not; one phrase each.

    Digests of the target's weights count; where both runs have one, its name and path don't.
    """
    skipped = set(MAY_DIFFER)
    if all(_mapping(run, "settings").get("target_weights") for run in (base, candidate)):
        skipped.add("target")
    return _differences(base, candidate, "settings", skipped)


def different_machines(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """In what hardware and versions differ: no reason to refuse, but speeds may."""
    hardware, versions = (
        _differences(base, candidate, part, set()) for part in ("hardware", "versions")
    )
    return hardware + versions


def _differences(
    base: Mapping[str, Any], candidate: Mapping[str, Any], part: str, skipped: Set[str]
) -> list[str]:
    before, after = _mapping(base, part), _mapping(candidate, part)
    return [
        f"{name} was {_shown(before.get(name))}, is {_shown(after.get(name))}"
        for name in sorted((set(before) | set(after)) - skipped)
        if before.get(name) != after.get(name)
    ]


def different_requests(base: Mapping[str, Trace], candidate: Mapping[str, Trace]) -> list[str]:
    """In what two runs' requests, by id, differ and must not; one phrase each."""
    phrases = []
    for only, other, where in ((base, candidate, "base"), (candidate, base, "candidate")):
        missing = [request for request in only if request not in other]
        tasks = {one.task for one in other.values()}
        if whole := sorted({only[request].task for request in missing} - tasks):
            phrases.append(f"tasks only in the {where}: {_listed(whole)}")
        if partly := [request for request in missing if only[request].task in tasks]:
            example = _shown(partly[0])
            phrases.append(f"{_requests(len(partly))} only in the {where}, such as {example}")
    unequal, examples = Counter[str](), dict[str, str]()
    for request in (request for request in base if request in candidate):
        before, after = (
            dict(run[request].demands) | {"group": run[request].group} for run in (base, candidate)
        )
        for name, value in after.items():
            if before.get(name, value) != value:
                unequal[name] += 1
                values = f"{_shown(before[name])} and {_shown(value)}"
                examples.setdefault(name, f"{values} in {_shown(request)}")
    return phrases + [
        f"{_requests(count)} differ in {name}, such as {examples[name]}"
        for name, count in unequal.items()
    ]


def text_agreement(base: Mapping[str, Trace], candidate: Mapping[str, Trace]) -> TextAgreement:
    """Compare the greedy texts of two runs of the same requests."""
    texts = {one: (base[one].text, candidate[one].text) for one in base if one in candidate}
    known = {request: both for request, both in texts.items() if None not in both}
    differing = sorted(request for request, (one, other) in known.items() if one != other)
    return TextAgreement(
        compared=len(known), differing=len(differing), examples=differing[:_MOST_EXAMPLES]
    )


def is_exact(run: Mapping[str, Any]) -> bool:
    """Whether a run's numbers are so wide that greedy texts must agree token for token."""
    return str(_mapping(run, "settings").get("dtype")).removeprefix("torch.") in EXACT_DTYPES


def _mapping(run: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = run.get(key)
    return value if isinstance(value, dict) else {}


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_EXAMPLES} more" if len(names) > _MOST_EXAMPLES else ""
    return ", ".join(_shown(name) for name in names[:_MOST_EXAMPLES]) + more


def _shown(value: object) -> str:
    """With escapes for what a terminal would obey, and not too long."""
    return f"{value!r:.100}"
