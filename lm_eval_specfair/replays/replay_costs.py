"""What a replayed step costs: as somebody says, as another run measured, or measured here."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.aggregate.sums import Sums
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.reporting.runs import open_runs, refuse_empty

_SECONDS, _PROMPTS, _TOKENS = 2.0, 8, 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayCosts:
    """c, v and o of a step, in plain steps (`metrics.definitions.speedup`), and who says so."""

    draft: float
    verify: float
    overhead: float
    source: str

    def __post_init__(self) -> None:
        numbers = (self.draft, self.verify, self.overhead)
        is_sound = self.draft >= 0 and self.verify > 0 and self.verify + self.overhead > 0
        if not is_sound or not all(map(math.isfinite, numbers)):
            raise ConfigError(
                "costs must be c at least 0, v above 0, and add up to more than nothing, got "
                + ",".join(f"{number:g}" for number in numbers)
            )

    def to_json(self) -> dict[str, Any]:
        """As `run.json` holds it."""
        costs = {"c": self.draft, "v": self.verify, "o": self.overhead}
        return {**costs, "source": self.source}


def named_costs(costs: tuple[float, float, float] | Path) -> ReplayCosts:
    """Costs as somebody gave them, or those of a run (`costs_of_run`)."""
    if isinstance(costs, Path):
        return costs_of_run(costs)
    draft, verify, overhead = costs
    return ReplayCosts(draft=draft, verify=verify, overhead=overhead, source="given")


def costs_of_run(folder: Path) -> ReplayCosts:
    """The costs that a decoded run measured.

    Raises:
        ConfigError: If it is no run, or decoded nothing both with and without a drafter.
    """
    (reader,) = readers = open_runs([folder])
    aggregator = Aggregator("task")
    for batch in reader.batches():
        aggregator.add_batch(batch, reader.tasks)
    refuse_empty(readers)
    blocks = aggregator.aggregate(1).blocks
    run = Sums(np.sum([block.sum((0, 1)) for block in blocks], axis=0))
    draft, verify, overhead = (float(metric.evaluate(run, run)) for metric in COSTS)
    if not all(map(math.isfinite, (draft, verify, overhead))):
        raise ConfigError(
            f"--costs-from {folder}: it did not time drafting, verifying and plain decoding; name "
            "a run with a plain baseline (baseline=8) that was decoded in process, or --costs"
        )
    settings = reader.info.get("settings") or {}
    told = [
        f"{label} {settings[key]}"
        for key, label in {
            "drafter": "drafter",
            "num_speculative_tokens": "gamma",
            "batch_size": "batch size",
        }.items()
        if settings.get(key) is not None
    ]
    source = ", ".join([f"measured in the run {reader.name}", *told])
    return ReplayCosts(draft=draft, verify=verify, overhead=overhead, source=source)


def measured_costs(
    target: CausalModel,
    drafter: Drafter,
    texts: Sequence[KnownText],
    num_speculative_tokens: int,
    *,
    batch_size: int = _PROMPTS,
) -> ReplayCosts:
    """The costs on this machine: some of the prompts, decoded alternately both ways."""
    config = DecodeConfig(num_speculative_tokens=num_speculative_tokens)
    engine, plain = Engine(target, config), NoDrafter(target.device)
    room = min(target.max_length, drafter.max_length) - _TOKENS
    prompts = [text.prompt for text in texts if 0 < len(text.prompt) <= room]
    if not prompts:
        raise ConfigError(
            f"--measure-costs needs a prompt that leaves room for {_TOKENS} tokens; name --costs"
        )
    requests = [
        Request(
            request_id=str(number),
            prompt=prompts[number % len(prompts)],
            stopping=Stopping(max_new_tokens=_TOKENS),
        )
        for number in range(batch_size)
    ]
    sides: dict[str, list[Completion]] = {"drafted": [], "plain": []}
    for side, one in {"drafted": drafter, "plain": plain}.items():  # to warm up
        list(engine.decode(requests, one, batch_size=batch_size))
        sides[side] = []
    started = time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        for side, one in {"drafted": drafter, "plain": plain}.items():
            sides[side] += engine.decode(requests, one, batch_size=batch_size)

    def total(side: str, number: Callable[[Completion], float]) -> float:
        return sum(number(each) for each in sides[side])

    step = total("plain", lambda each: each.counters.decode_seconds)
    step /= total("plain", lambda each: len(each.token_ids))
    steps = total("drafted", lambda each: each.counters.num_steps) * step
    draft, verify, whole = (
        total("drafted", lambda each, name=name: float(getattr(each.counters, name)))  # type: ignore[misc]
        for name in ("draft_seconds", "verify_seconds", "decode_seconds")
    )
    drafted = total("drafted", lambda each: sum(each.counters.drafted_per_step)) * step
    return ReplayCosts(
        draft=draft / drafted if drafted else 0.0,
        verify=verify / steps,
        overhead=(whole - draft - verify) / steps,
        source=f"measured here with {batch_size} rows, {target.device}",
    )


def costs_here(
    target: PreTrainedModel,
    name: DrafterName,
    model: PreTrainedModel | None,
    texts: Sequence[KnownText],
    length: int,
) -> ReplayCosts:
    """The costs of a drafter on this machine; `model` is its own, None where it has none."""
    decodes = CausalModel(target)
    drafts: Drafter | None = None
    if model is not None:
        wrapped = CausalModel(model, role="drafter")
        drafts = ModelDrafter(wrapped, vocab_size=decodes.vocab_size)
    drafter = name.made(drafts, vocab_size=decodes.vocab_size, device=decodes.device)
    return measured_costs(decodes, drafter, texts, length)
