"""What uncertain token ids of replayed texts may change, by group, in a sentence."""

from lm_eval_specfair.metrics.summary import Estimates, Summary

_MOST_GROUPS = 5
_RATE = "conditional_acceptance_rate"


def uncertain_notes(summary: Summary) -> list[str]:
    """The share of uncertain tokens, and the widest ranges of acceptance that they leave."""
    share = summary.overall.get("uncertain_tokens_share")
    if share is None:
        return []
    ranges = {name: _range(group) for name, group in summary.groups.items()}
    known = {name: one for name, one in ranges.items() if one is not None}
    widest = sorted(known, key=lambda name: known[name][0] - known[name][1])[:_MOST_GROUPS]
    shown = ", ".join(f"{name} {known[name][0]:.2f} to {known[name][1]:.2f}" for name in widest)
    whole = _range(summary.overall)
    overall = "" if whole is None else f" between {whole[0]:.2f} and {whole[1]:.2f}"
    return [
        f"{share.value:.1%} of the replayed tokens have uncertain ids: the texts were encoded "
        "again, and the model may have split these differently, or emitted a stop string that the "
        f"text does not show. Had none or all of them been kept, {_RATE} would be{overall}"
        + (f" (widest: {shown})" if shown else "")
        + f"; {_RATE}_certain leaves them out."
    ]


def _range(estimates: Estimates) -> tuple[float, float] | None:
    low, high = (estimates.get(f"{_RATE}_{case}") for case in ("at_least", "at_most"))
    return None if low is None or high is None else (low.value, high.value)
