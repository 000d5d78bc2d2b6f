"""Counters of speculative decoding that servers publish at `/metrics`, in Prometheus' text form.

They are sums over all traffic, so their differences are one request's only where it is alone.
"""

import itertools
import re
from dataclasses import dataclass

from lm_eval_specfair.serving.served_counts import ServedCounts

# vLLM's names, which llama.cpp took over with its own prefix and sometimes without `_total`.
_LINE = re.compile(
    r"^(?:vllm|llamacpp):(?P<name>spec_decode_num_(?:drafts|draft_tokens|accepted_tokens"
    r"(?:_per_pos)?)|generation_tokens|tokens_predicted)(?:_total)?"
    r"(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>[0-9]{1,15}(?:\.[0-9]+)?(?:[eE]\+?[0-9])?)(?!\S)",
    re.MULTILINE,
)
_POSITION = re.compile(r'position="(\d+)"')


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
    for line in _LINE.finditer(text):
        value = int(float(line["value"]))
        name = line["name"]
        if name.endswith("_per_pos"):
            place = _POSITION.search(line["labels"] or "")
            if place is not None:
                positions[int(place[1])] = positions.get(int(place[1]), 0) + value
        else:
            sums[name] = sums.get(name, 0) + value
    if "spec_decode_num_drafts" not in sums:
        return None
    longest = max(positions, default=-1) + 1
    return DraftCounters(
        drafts=sums["spec_decode_num_drafts"],
        draft_tokens=sums.get("spec_decode_num_draft_tokens", 0),
        accepted_tokens=sums.get("spec_decode_num_accepted_tokens", 0),
        accepted_by_position=tuple(positions.get(place, 0) for place in range(min(longest, 1024))),
        tokens=sums.get("generation_tokens", sums.get("tokens_predicted", 0)),
    )
