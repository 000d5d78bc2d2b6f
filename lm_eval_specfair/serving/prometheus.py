"""Counters of speculative decoding that servers publish at `/metrics`, in Prometheus' text form.

They are sums over all traffic, so their differences are one request's only where it is alone.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.serving.served_counts import ServedCounts

# vLLM's names, which llama.cpp took over with its own prefix and sometimes without `_total`.
_NAME = re.compile(
    r"(?:vllm|llamacpp):(spec_decode_num_(?:drafts|draft_tokens|accepted_tokens(?:_per_pos)?)"
    r"|generation_tokens|tokens_predicted)(?:_total)?"
)
_MOST = 1e15  # beyond, whole numbers run into each other


def samples_of(line: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The name, labels and value in one line of Prometheus' text form; none in a comment.

    Raises:
        ValueError: If it is no sample.
    """
    for family in text_string_to_metric_families(line):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCounters:
    """The counters at one moment.

    Attributes:
        accepted_by_position: Drafts kept, by their place in the step, from 0.
        tokens: Generated, with and without drafts.
    """

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()
    tokens: int = 0

    def since(self, before: "DraftCounters", num_tokens: int) -> ServedCounts | None:
        """What was counted since; None where other requests generated tokens meanwhile."""
        if self.tokens - before.tokens != num_tokens:
            return None
        steps = self.drafts - before.drafts
        earlier = [*before.accepted_by_position, *[0] * len(self.accepted_by_position)]
        kept = [now - old for now, old in zip(self.accepted_by_position, earlier, strict=False)]
        reached = [steps, *kept, 0]
        histogram = [here - further for here, further in itertools.pairwise(reached)]
        return ServedCounts(
            convention="metrics",
            num_spec_steps=steps,
            num_draft_tokens=self.draft_tokens - before.draft_tokens,
            num_accepted_draft_tokens=self.accepted_tokens - before.accepted_tokens,
            acceptance_histogram=histogram if kept else None,
            num_spec_tokens=len(kept) or None,
        )


def read_counters(text: str) -> DraftCounters | None:
    """The counters in a page of metrics, summed over engines; None where there are none.

    Example:
        >>> read_counters('vllm:spec_decode_num_drafts_total{engine="0"} 7.0').drafts
        7
    """
    sums: dict[str, int] = {}
    positions: dict[int, int] = {}
    for line in text.splitlines():
        if not line.startswith(("vllm:", "llamacpp:")):
            continue
        try:
            found = list(samples_of(line))
        except ValueError:  # one of the server's other counters, for all we know
            continue
        for sample, labels, value in found:
            named = _NAME.fullmatch(sample)
            if named is None or not (math.isfinite(value) and 0 <= value < _MOST):
                continue
            name, count = named[1], int(value)
            place = labels.get("position", "")
            if not name.endswith("_per_pos"):
                sums[name] = sums.get(name, 0) + count
            elif place.isdecimal() and len(place) < 4:
                positions[int(place)] = positions.get(int(place), 0) + count
    if "spec_decode_num_drafts" not in sums:
        return None
    longest = max(positions, default=-1) + 1
    return DraftCounters(
        drafts=sums["spec_decode_num_drafts"],
        draft_tokens=sums.get("spec_decode_num_draft_tokens", 0),
        accepted_tokens=sums.get("spec_decode_num_accepted_tokens", 0),
        accepted_by_position=tuple(
            positions.get(place, 0) for place in range(min(longest, MAX_SPECULATIVE_TOKENS))
        ),
        tokens=sums.get("generation_tokens", sums.get("tokens_predicted", 0)),
    )
