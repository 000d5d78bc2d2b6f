"""Two snapshots of a server's `/metrics`, and what it counted between them.

Counters hold all traffic of a server, whoever asked and in whatever language: a difference is of
one group where only that group's requests ran between the snapshots. It is no request, so it says
nothing of the spread between requests; several pairs of snapshots of a group do.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.serving.prometheus import samples_of

_DRAFTS = re.compile(r"(vllm|llamacpp):spec_decode_num_drafts_total")
_MODEL = "model_name"
_OF_COUNTERS = ("_total", "_per_pos", "_sum", "_count")

Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by a sample's name and its labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedTraffic:
    """What a server counted between two snapshots.

    Attributes:
        engine: `vllm` or `llamacpp`.
        num_steps: Target passes that verified drafts.
        num_drafted: Tokens proposed.
        num_accepted: Tokens kept by verification, behind the ends of texts as well.
        histogram: Verifications by number accepted; None where positions are not counted.
        num_requests: That finished; None where the server does not say.
        num_prompt_tokens: Of these.
        num_generated_tokens: Of these.
    """

    engine: str
    num_steps: int
    num_drafted: int
    num_accepted: int
    histogram: list[int] | None = None
    num_requests: int | None = None
    num_prompt_tokens: int | None = None
    num_generated_tokens: int | None = None

    @property
    def num_examined(self) -> int | None:
        """Accepted and rejected ones; known where every step drafted as many as the longest."""
        if self.histogram is None or self.num_steps == 0:
            return None
        longest = len(self.histogram) - 1
        if self.num_drafted != longest * self.num_steps:
            return None
        return self.num_accepted + self.num_steps - self.histogram[longest]


def read_series(path: Path) -> Series:
    """A snapshot in Prometheus' text format; comments and types are passed over.

    Raises:
        ConfigError: If it cannot be read, or a line is no sample.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)[:200]}") from None
    series: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            for name, labels, value in samples_of(line):
                series[name, tuple(sorted(labels.items()))] = value
        except ValueError:
            raise ConfigError(
                f"{path}:{number}: expected a sample of Prometheus' text format, such as "
                f'vllm:prompt_tokens_total{{engine="0"}} 136.0, got {one_line(line)[:80]!r}'
            ) from None
    return series


def counted_between(before: Path, after: Path) -> CountedTraffic:
    """What a server counted between two snapshots of it.

    Raises:
        ConfigError: If one cannot be read, holds no counters of drafts, a counter went back (the
            server was started anew in between), or several models drafted.
    """
    old, new = read_series(before), read_series(after)
    engine = next((match[1] for name, _ in new if (match := _DRAFTS.fullmatch(name))), None)
    if engine is None:
        raise ConfigError(
            f"{after} has no counters of drafts (vllm:spec_decode_num_drafts_total, or "
            "llamacpp:...): expected /metrics of vLLM or llama.cpp with a drafter; "
            "llama-server needs --metrics"
        )

    def is_counter(name: str) -> bool:
        return name.startswith(f"{engine}:") and name.endswith(_OF_COUNTERS)

    counters = {key: value - old.get(key, 0.0) for key, value in new.items() if is_counter(key[0])}
    is_other = any(is_counter(key[0]) and key not in new for key in old)
    if is_other or any(change < 0 for change in counters.values()):
        raise ConfigError(
            f"{after}: counters are lower than in {before}: expected an earlier and a later "
            "snapshot of one server that was not started anew in between"
        )
    drafts, prefix = f"{engine}:spec_decode_num_drafts_total", f"{engine}:spec_decode_num"
    models = sorted({dict(labels).get(_MODEL, "") for name, labels in counters
                     if name == drafts and counters[name, labels] > 0})  # fmt: skip
    if len(models) > 1:
        raise ConfigError(
            f"{after}: {len(models)} models drafted ({one_line(', '.join(models))[:200]}): "
            "expected snapshots of one"
        )
    total = _Totals(counters)
    steps = total.of(drafts) or 0
    accepted = total.of(f"{prefix}_accepted_tokens_total") or 0
    return CountedTraffic(
        engine=engine,
        num_steps=steps,
        num_drafted=total.of(f"{prefix}_draft_tokens_total") or 0,
        num_accepted=accepted,
        histogram=total.histogram(f"{prefix}_accepted_tokens_per_pos", steps, accepted),
        num_requests=total.of(f"{engine}:request_success_total"),
        num_prompt_tokens=total.of(f"{engine}:prompt_tokens_total"),
        num_generated_tokens=total.of(
            f"{engine}:generation_tokens_total", f"{engine}:tokens_predicted_total"
        ),
    )


@dataclass(frozen=True, slots=True)
class _Totals:
    counters: Series

    def of(self, *names: str) -> int | None:
        """The sum of a counter over its labels; None where the server has none of these names."""
        values = [value for (name, _), value in self.counters.items() if name in names]
        return round(sum(values)) if values else None

    def histogram(self, name: str, steps: int, accepted: int) -> list[int] | None:
        """Steps by number accepted, from how many accepted each position; None if they differ."""
        at: dict[int, float] = {}
        for (sample, labels), value in self.counters.items():
            place = dict(labels).get("position", "")
            if sample in (name, f"{name}_total") and re.fullmatch(r"\d{1,3}", place):
                at[int(place)] = at.get(int(place), 0.0) + value
        if not at or sorted(at) != list(range(len(at))) or len(at) > MAX_SPECULATIVE_TOKENS:
            return None
        reached = [steps, *(round(at[place]) for place in range(len(at))), 0]
        found = [here - beyond for here, beyond in itertools.pairwise(reached)]
        kept = sum(number * times for number, times in enumerate(found))
        return found if min(found) >= 0 and kept == accepted else None
