"""Sentences about the runs that a report rests on: what is missing, pooled or invalid, and how."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.assign import NO_GROUP
from lm_eval_specfair.machine_load import load_sentence
from lm_eval_specfair.metrics.aggregate.sums import MAX_SETTINGS
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.report.answer_quality import Quality
from lm_eval_specfair.reporting.report.served_notes import served_notes
from lm_eval_specfair.reporting.report.uncertain_notes import uncertain_notes
from lm_eval_specfair.reporting.report.validity import fitted_notes, lossless_notes
from lm_eval_specfair.reporting.runs import RunReader

_VLLM = (
    "Decoded by vLLM: a text's first token comes from the prompt's pass and counts as a step "
    "without drafts; the time of a step is shared by its requests; drafting and verifying are not "
    "distinguished, so only the whole cost of a step is known."
)
_VLLM_FLAGS = {
    "lossy": "Not lossless, by its settings ({}): the texts need not be the target's.",
    "adaptive": "The draft length was not constant ({}): it follows load or confidence.",
    "other_rule": "Drafts were chosen or accepted by another rule ({}): their acceptance is no "
    "estimate of the overlap of the two distributions.",
}


def record_notes(summary: Summary) -> list[str]:
    """What a reader must know of groups, settings and baselines."""
    notes, counts, num_settings = [], summary.counts, len(summary.settings)
    if summary.ungrouped:
        tasks = sorted(summary.ungrouped)
        shown = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
        notes.append(
            f"{NO_GROUP}: nothing names the {summary.group_by} of "
            f"{sum(summary.ungrouped.values())} requests ({shown}), so no comparison holds them. "
            f"Add a field `{summary.group_by}` to the documents or to `metadata` in the task's "
            "YAML, or name it in a --groups file."
        )
    if num_settings > 1:
        notes.append(
            f"Requests were decoded with {num_settings} different settings; each estimate pools "
            "them, and the modelled speed-up takes the cost of a step from requests of the same "
            "settings."
        )
    if num_settings > MAX_SETTINGS:
        notes.append(
            f"Only {MAX_SETTINGS} combinations of settings have a cost of their own; the last "
            f"{num_settings - MAX_SETTINGS + 1} of them share one."
        )
    if summary.has_bounds and summary.greedy_requests and summary.overall["overlap"] is not None:
        notes.append(
            f"{summary.greedy_requests:,} requests were decoded greedily, where a token is "
            "accepted if both models find it most likely: bounds of the speed-up, which assume "
            "sampling, don't hold for these."
        )
    notes += [*uncertain_notes(summary), *_infinite_notes(summary)]
    return [*notes, *lossless_notes(counts)]


def _infinite_notes(summary: Summary) -> list[str]:
    """Why KL and cross-entropy are infinite, in which requests, and what there is instead."""
    counts, notes = summary.counts, []
    drafter = str(_find(summary.run, ("drafter",)))
    is_lookup = "_lookup" in drafter.partition("+")[0].partition(":")[0]
    settings = summary.run.get("settings")
    way = settings.get("drafter_vocabulary") if isinstance(settings, dict) else None
    is_text = isinstance(way, dict) and way.get("method") == "text"
    others = counts.infinite_requests - counts.infinite_by_truncation
    if counts.infinite_by_truncation and not (is_lookup or is_text):
        instead = ""
        if summary.overall["untruncated_kl"] is not None:
            instead = " `untruncated_kl` and `untruncated_cross_entropy` are those before the cut."
        notes.append(
            f"In {counts.infinite_by_truncation} requests top-k or top-p left the drafter without "
            "a token of the target: KL and cross-entropy are infinite there, and not reported."
            + instead
        )
    elif is_lookup or is_text:
        others = counts.infinite_requests
    if others:
        cause = "the drafter's vocabulary lacks tokens of the target's"
        if is_lookup:
            cause = (
                f"{drafter.partition('+')[0].replace('_', ' ')} proposes one token without a "
                "distribution (its q is a point)"
            )
        elif is_text:
            cause = "drafts go through text, without a distribution (q is a point)"
        notes.append(
            f"In {others} requests KL and cross-entropy are infinite, and not reported: {cause}."
        )
    return notes


def run_notes(readers: Sequence[RunReader], quality: Quality) -> list[str]:
    """What a reader must know of the runs that were read, and of their answers' quality."""
    notes: list[str] = []
    ids = [reader.id_hashes for reader in readers]
    num_read = sum(map(len, ids))
    num_requests = len(np.unique(np.concatenate(ids)))
    for reader, own in zip(readers, ids, strict=True):
        if reader.is_unfinished:
            notes.append(
                f"The run in {reader.name} did not finish; its estimates rest on the {len(own)} "
                "requests that did."
            )
        notes += [*_states_notes(reader), *_vocabulary_notes(reader)]
        notes += fitted_notes(reader.name, reader.info)
        if reader.is_replayed:
            notes.append(_of_replay(reader, readers))
        if strange := reader.unknown_tasks:
            notes.append(
                f"{reader.name} holds records of tasks that its run.json does not name, such as "
                f"{one_line(strange[0])}: were two runs written into one folder?"
            )
    notes += [
        sentence
        for reader in readers
        if (sentence := load_sentence(reader.info.get("load"), reader.name))
    ]
    if num_failed := sum(reader.num_failed for reader in readers):
        notes.append(
            f"{num_failed} of {num_requests} requests failed and are left out; `failure` in their "
            "records says why."
        )
    if num_repeated := num_read - num_requests:
        notes.append(f"{num_repeated} requests are in several runs; every estimate pools them.")
    if differing := _differing_settings([reader.info for reader in readers]):
        notes.append(
            f"The runs differ in {', '.join(differing)}: every estimate pools them. "
            "`specfair compare` sets runs against each other."
        )
    if quality.scores:
        metrics = sorted(
            {name.removesuffix(",none").replace(",", " of ") for name in quality.metrics.values()}
        )
        notes.append(
            f"Answer quality: {', '.join(metrics)}, from lm-eval's samples; {quality.num_checked} "
            "texts agree with the records."
        )
    return notes


def _vocabulary_notes(reader: RunReader) -> list[str]:
    """How a head, or a drafter with another tokenizer, drafted."""
    settings = reader.info.get("settings") or {}
    head, way = settings.get("drafter_head"), settings.get("drafter_vocabulary")
    if isinstance(head, dict) and "kind" in head:
        layers = ", ".join(map(str, head.get("feature_layers") or ()))
        return [
            f"The drafter of {reader.name} is a head on the target's hidden states (layers "
            f"{layers}) that drafts among {head.get('draft_vocab_size')} tokens."
        ]
    if not isinstance(way, dict):
        return []
    if way.get("method") == "own_tokens":
        return [
            f"{reader.name} is a replay on the drafter's own tokens, which are not the target's: "
            "compare it by bytes (accepted_bytes_share, steps_per_kilobyte), not by tokens."
        ]
    through = {"intersection": "through the tokens that both have", "text": "through text"}
    number, share = way.get("num_shared_tokens"), way.get("share_of_target_tokens")
    shared = ""
    if isinstance(number, int) and isinstance(share, float):
        shared = f"; they share {number:,} tokens, {share:.0%} of the target's"
    method = through.get(str(way.get("method")), "in another way")
    return [f"The drafter of {reader.name} has a tokenizer of its own and drafts {method}{shared}."]


_STATES = {
    "block": "drafts in one pass, kept tokens again",
    "token": "one token at a time",
    "row": "one token of one row at a time",
}


def _states_notes(reader: RunReader) -> list[str]:
    """What the measured costs of models with recurrent states hold."""
    states = reader.info.get("states")
    kept = {
        role: _STATES[how]
        for role in ("target", "drafter")
        if isinstance(states, dict) and (how := states.get(role)) in _STATES
    }
    if not kept:
        return []
    read = " and ".join(f"the {role}'s ({how})" for role, how in kept.items())
    instead = (
        "textbook_speedup, which takes verifying for one plain step, stands beside them"
        if "target" in kept
        else "a cheaper drafter is to be expected there"
    )
    return [
        f"{reader.name}: recurrent states are rolled back by further passes, {read}. A serving "
        "engine keeps a state for each draft and makes none of these, so measured_speedup and "
        f"modelled_speedup are not its; {instead}."
    ]


def _of_replay(reader: RunReader, readers: Sequence[RunReader]) -> str:
    text = f"{reader.name} was replayed on finished texts: it took the steps of decoding untimed."
    if (costs := reader.costs) is None:
        return text
    if not all(each.costs for each in readers):
        return f"{text} Its costs are not used beside runs without such."
    named = ", ".join(f"{name} = {cost:.3g}" for name, cost in zip("cvo", costs, strict=True))
    source = one_line(reader.info["costs"].get("source", "unknown"))
    return f"{text} Its speed-up is modelled from {named} plain steps ({source})."


def _differing_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of settings in which runs differ."""
    all_settings = [
        dict(settings) if isinstance(settings := run.get("settings"), dict) else {} for run in runs
    ]
    for role in ("target", "drafter"):
        if all(settings.get(f"{role}_weights") for settings in all_settings):
            for settings in all_settings:  # the same weights may be in several places
                settings.pop(role, None)
    return sorted(
        {
            one_line(name.removesuffix("_weights"))
            for settings in all_settings
            for name in settings
            if any(other.get(name) != settings[name] for other in all_settings)
        }
    )


def conditions(summary: Summary) -> list[str]:
    """How the run was decoded and on what; of several runs, what they share."""
    parts = []
    for settings in summary.settings[:3]:
        text = f"gamma {settings.num_speculative_tokens}, temperature {settings.temperature:g}"
        told = {"top-k": settings.top_k, "top-p": settings.top_p}
        told["drafts drawn at temperature"] = settings.drafter_temperature
        text += "".join(f", {name} {value:g}" for name, value in told.items() if value is not None)
        text += ", drafts judged by blocks" if settings.verification == "block" else ""
        parts.append(text)
    parts += [
        f"{label} {one_line(value)}"
        for label, *keys in (
            ("target", "pretrained", "target"),
            ("drafter", "drafter"),
            ("batch size", "batch_size"),
            ("dtype", "dtype"),
            ("on", "gpu", "processor", "device"),
        )
        if (value := _find(summary.run, keys)) is not None
    ]
    return [f"Decoded with {'; '.join(parts)}."] if parts else []


def _find(run: Mapping[str, object], keys: Sequence[str]) -> object:
    """The first of some keys that a run's description has, at its top or one level below."""
    nested = [value for key, value in run.items() if isinstance(value, dict) and key != "differing"]
    for key in keys:
        for level in (run, *nested):
            value = level.get(key)
            if isinstance(value, (str, int, float)) and str(value):
                return value
    return None


def backend_notes(run: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a run (or what several share) that was not decoded in process."""
    differing = run.get("differing") or {}
    all_settings = [run.get("settings"), *(differing.get("settings") or ())]
    known = [each for each in all_settings if isinstance(each, dict)]
    on_vllm = [each for each in known if each.get("backend") in ("vllm", "server")]
    notes = [_VLLM] if any(each.get("backend") == "vllm" for each in on_vllm) else []
    notes += [*served_notes(run), *_log_notes(all_settings)]
    for kind, sentence in _VLLM_FLAGS.items():
        reasons = {
            one_line(reason)
            for settings in on_vllm
            for reason in (settings.get("flags") or {}).get(kind, ())
        }
        if reasons:
            notes.append(sentence.format(", ".join(sorted(reasons))))
    return notes


def _log_notes(all_settings: Sequence[object]) -> list[str]:
    """Whose logs a run was read from, and what these count."""
    conventions: dict[str, str] = {}
    for each in all_settings:
        if isinstance(each, dict) and each.get("backend") == "logs":
            named = each.get("conventions")
            conventions |= named if isinstance(named, dict) else {}
    return [
        f"Read from logs of {one_line(name)}, which count {one_line(text)}. What lies behind a "
        "text's end was taken off where steps are known; what no log says is not measured."
        for name, text in sorted(conventions.items())
    ]
