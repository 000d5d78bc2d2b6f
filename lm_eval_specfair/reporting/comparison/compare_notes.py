"""The sentences of a comparison: what a reader must know of its runs, texts and groups."""

from collections.abc import Mapping, Sequence

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.metrics.comparison.change import Comparison
from lm_eval_specfair.metrics.statistics.intervals import MIN_DOCUMENTS
from lm_eval_specfair.reporting.runs import RunReader

_MOST_REASONS = 4


def comparison_notes(
    readers: Mapping[str, RunReader], machines: Mapping[str, Sequence[str]], comparison: Comparison
) -> list[str]:
    """What a reader must know of these runs (the base first), their machines, groups and texts."""
    base = next(iter(readers))
    notes = [
        f"The run {name} did not finish; only what it recorded is compared."
        for name, reader in readers.items()
        if reader.is_unfinished
    ]
    notes += [
        f"{reader.num_failed} requests of {name} failed and are left out."
        for name, reader in readers.items()
        if reader.num_failed
    ]
    notes += [
        f"{name} ran on another machine than {base} ({'; '.join(reasons[:_MOST_REASONS])}): "
        "speed-ups may differ for that alone."
        for name, reasons in machines.items()
        if reasons
    ]
    if any(reader.is_replayed for reader in readers.values()):
        notes.append("Only requests that generate text are compared: a replay has no others.")
    notes += [
        f"{name} was replayed, not timed: its speed-up is modelled from the costs of a step "
        f"({one_line(reader.info['costs'].get('source', 'unknown'))})."
        for name, reader in readers.items()
        if reader.costs is not None
    ]
    if not comparison.groups:
        notes.append(
            f"No group has {comparison.min_requests} requests, generated and scored together, so "
            "only all requests are compared: run more documents (--limit), or ask for smaller "
            f"groups with --min-requests. Intervals need {MIN_DOCUMENTS} documents a group."
        )
    if comparison.not_reported:
        small = ", ".join(f"{name} ({n})" for name, n in comparison.not_reported.items())
        notes.append(
            f"Not compared, with fewer than {comparison.min_requests} requests, generated and "
            f"scored together (n; --min-requests asks for smaller groups): {small}. All requests "
            "includes them."
        )
    if comparison.num_ungrouped:
        notes.append(
            f"{comparison.num_ungrouped} requests belong to no {comparison.group_by} and count in "
            "all requests only."
        )
    for name, texts in ((each.name, each.texts) for each in comparison.candidates):
        if texts.differing:
            notes.append(
                f"{name}: {texts.differing} of {texts.compared} greedy texts differ from the "
                f"base's, such as {one_line(texts.examples[0])}. A target has one greedy text, "
                "whoever drafts: unless rounding decides between equal logits (types narrower "
                "than float32), one of the two runs was not lossless."
            )
        elif texts.compared:
            notes.append(f"{name}: all {texts.compared} greedy texts equal the base's.")
    return notes
