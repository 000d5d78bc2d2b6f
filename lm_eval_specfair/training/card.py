"""What a finished run says: figures before and after on texts never learnt from, and a model card.

Intervals come from rows drawn with replacement, the same rows before and after. No torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from lm_eval_specfair.metrics.disparity import ratio, unfairness
from lm_eval_specfair.metrics.statistics.bootstrap import percentile_interval
from lm_eval_specfair.training.group_sums import Array, Sums
from lm_eval_specfair.training.loop import Outcome
from lm_eval_specfair.training.options import TrainConfig

NUM_RESAMPLES = 1000

_CARD = """---
library_name: transformers
tags: [speculative-decoding, drafter]
---

# {name}

A drafter for speculative decoding, fine-tuned from `{drafter}` for the frozen target `{target}`
by `specfair train`. The target's outputs do not change: speculative decoding is lossless.

## How it was made

| | |
|---|---|
| data | `{data}`, {num_items} items, {train_tokens:,.0f} tokens to learn from |
| responses | {responses} |
| group weighting | `{weighting}` |
| divergence | {divergence} |
| budget | {budget:,} tokens, {num_steps} steps of {rows} rows |
| optimizer | {optimizer}, learning rate {rate:g} |
| seed | {seed} |
| kept step | {kept_step} of {num_steps}: highest speed-up of the worst group on the probe split, \
if the mean is at least {least:.0%} of the start's |
{cache}
`train.json` holds all settings, `training_log.jsonl` every step.

## Before and after

On the test split ({num_rows} rows, teacher-forced, no item of which was learnt from or chosen by).
Modelled speed-up: {gamma} drafted tokens a step, a draft pass at {cost:.3f} of a target pass, \
acceptance taken as independent.

{table}

{summary}

95% intervals of the change, from {resamples} resamples of rows. Per token is not per user: see the
bytes per token. Measure the pair as it is served with
`lm_eval --model specfair --model_args pretrained={target},drafter=PATH`.
"""


def results_of(outcome: Outcome, *, seed: int, num_speculative_tokens: int = 4) -> dict[str, Any]:
    """Figures of all groups before and after, with paired intervals.

    Args:
        outcome: What training did.
        seed: Of the resamples.
        num_speculative_tokens: Tokens drafted a step in the modelled speed-up.

    Returns:
        A JSON object; what was not measured is None.
    """
    membership = np.stack([row.membership for row in outcome.test_rows])
    generator = np.random.default_rng(seed)
    times = _resamples(membership, generator)

    def speedup(sums: Sums) -> Array:
        return sums.speedup(num_speculative_tokens, outcome.cost_ratio)

    figures: dict[str, tuple[Array, Array]] = {}  # name: observed and resampled, before and after
    for name, of in (
        ("overlap", lambda sums: sums.per_token("overlap")),
        ("kl", lambda sums: sums.per_token("kl")),
        ("kl_per_byte", lambda sums: sums.per_byte("kl")),
        ("modelled_speedup", speedup),
    ):
        observed = np.stack([of(x.by_group(membership)) for x in (outcome.before, outcome.after)])
        resampled = np.stack(
            [
                of(Sums(np.einsum("sr,rg,rc->sgc", times, membership, x.values)))
                for x in (outcome.before, outcome.after)
            ]
        )
        figures[name] = observed, resampled
    counts = membership.astype(bool).sum(0)
    sums = outcome.before.by_group(membership)
    with np.errstate(divide="ignore", invalid="ignore"):
        bytes_per_token = sums.column("num_bytes") / sums.column("num_tokens")
    groups = {
        group: {
            "rows": int(counts[g]),
            "bytes_per_token": _number(bytes_per_token[g]),
            **{
                name: {
                    "before": _number(observed[0, g]),
                    "after": _number(observed[1, g]),
                    "change": _change(observed[:, g], resampled[:, :, g], int(counts[g])),
                }
                for name, (observed, resampled) in figures.items()
            },
        }
        for g, group in enumerate(outcome.names)
    }
    return {
        "kept_step": outcome.kept_step,
        "num_steps": outcome.num_steps,
        "cost_ratio": outcome.cost_ratio,
        "num_speculative_tokens": num_speculative_tokens,
        "train_tokens": dict(zip(outcome.names, outcome.num_tokens.tolist(), strict=True)),
        "test_rows": len(outcome.test_rows),
        "groups": groups,
        "across_groups": _across(figures, counts),
    }


def _resamples(membership: Array, generator: np.random.Generator) -> Array:
    """How often each row is drawn, shape (resamples, rows); groups keep their sizes."""
    times = np.zeros((NUM_RESAMPLES, len(membership)))
    for key in np.unique(membership, axis=0):
        rows = np.flatnonzero((membership == key).all(1))
        drawn = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_RESAMPLES)
        times[:, rows] = drawn
    return times


def _across(figures: dict[str, tuple[Array, Array]], counts: Array) -> dict[str, Any]:
    """Spread and means over groups, before and after; U is corrected for noise."""
    found: dict[str, Any] = {}
    for name, (observed, resampled) in figures.items():
        worst = np.max if name.startswith("kl") else np.min
        found[name] = {}
        for label, of in (
            ("mean", lambda x: x.mean(-1)),
            ("worst", lambda x, worst=worst: worst(x, -1)),
            ("ratio", ratio),
        ):
            both, drawn = of(observed), of(resampled)
            found[name][label] = {
                "before": _number(both[0]),
                "after": _number(both[1]),
                "change": _change(both, drawn, int(counts.min())),
            }
        corrected = [
            unfairness(values, replicates, counts, int(counts.sum()))[0].value
            for values, replicates in zip(observed, resampled, strict=True)
        ]
        found[name]["unfairness"] = {"before": corrected[0], "after": corrected[1]}
    return found


def _change(both: Array, resampled: Array, num_rows: int) -> dict[str, float | None]:
    interval = percentile_interval(resampled[1] - resampled[0], num_rows)
    low, high = (None, None) if interval is None else interval
    return {"value": _number(both[1] - both[0]), "low": low, "high": high}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write_card(
    path: Path, results: dict[str, Any], settings: dict[str, Any], config: TrainConfig
) -> None:
    """Write the model card of a finished run."""
    spread = results["across_groups"]["modelled_speedup"]
    misfit = results["across_groups"]["kl"]["unfairness"]
    summary = (
        f"Mean speed-up {_arrow(spread['mean'])}; worst group {_arrow(spread['worst'])}; ratio of "
        f"worst to best {_arrow(spread['ratio'])}; U of KL {misfit['before']:.4f} → "
        f"{misfit['after']:.4f} nats²."
    )
    cache = ""
    if "teacher_cache" in results:
        kept = results["teacher_cache"]
        cache = (
            f"\nThe target's distributions were kept as their {kept['top_k']} likeliest tokens and "
            f"the rest's mass, which sees {kept['kl_seen']:.4f} of {kept['kl']:.4f} nats of KL.\n"
        )
    path.write_text(
        _CARD.format(
            name=path.parent.parent.name,
            drafter=settings.get("drafter", "a drafter"),
            target=settings.get("target", "a target"),
            data=settings.get("data", "items in memory"),
            num_items=settings["items"],
            train_tokens=sum(results["train_tokens"].values()),
            responses=config.responses,
            weighting=config.weighting,
            divergence=config.divergence,
            budget=config.tokens,
            rows=config.rows,
            optimizer=config.optimizer,
            rate=config.learning_rate,
            seed=config.seed,
            least=1 - config.tolerance,
            gamma=results["num_speculative_tokens"],
            cost=results["cost_ratio"],
            kept_step=results["kept_step"],
            num_steps=results["num_steps"],
            num_rows=results["test_rows"],
            resamples=NUM_RESAMPLES,
            table=table_of(results, "github"),
            summary=summary,
            cache=cache,
        ),
        encoding="utf-8",
    )


def table_of(results: dict[str, Any], style: str) -> str:
    """Groups before and after as a table, in one of tabulate's styles."""
    rows = [
        [
            name,
            f"{results['train_tokens'][name]:,.0f}",
            group["rows"],
            _plain(group["bytes_per_token"]),
            *(_arrow(group[metric]) for metric in ("overlap", "kl", "modelled_speedup")),
        ]
        for name, group in results["groups"].items()
    ]
    header = ["group", "train tokens", "test rows", "bytes/token"]
    header += ["overlap", "KL (nats)", "modelled speed-up"]
    return tabulate(rows, header, tablefmt=style, disable_numparse=True)


def _arrow(figure: dict[str, Any]) -> str:
    change = figure["change"]
    text = f"{_plain(figure['before'])} → {_plain(figure['after'])}"
    if change["low"] is None:
        return text
    return f"{text} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _plain(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
