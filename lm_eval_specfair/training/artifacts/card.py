"""The model card and the table of a finished run: who gained, who paid. Computes nothing."""

import importlib.resources
from typing import Any

from tabulate import tabulate

from lm_eval_specfair.training.artifacts.train_results import NUM_RESAMPLES


def card_of(name: str, results: dict[str, Any], settings: dict[str, Any]) -> str:
    """The model card of a finished run, in Markdown, from its results and `train.json`."""
    spread = results["across_groups"]["textbook_speedup"]
    misfit = results["across_groups"]["kl"]["unfairness"]
    summary = (
        f"Mean speed-up {_arrow(spread['mean'])}; worst group {_arrow(spread['worst'])}; ratio of "
        f"worst to best {_arrow(spread['ratio'])}; U of KL {misfit['before']:.4f} → "
        f"{misfit['after']:.4f} nats²."
    )
    cache = ""
    if "teacher_cache" in results:
        record = results["teacher_cache"]
        cache = (
            f"\nThe target's distributions were kept as their {record['top_k']} most likely tokens "
            f"and the rest's mass: {record['kl_seen']:.4f} of {record['kl']:.4f} nats of KL.\n"
        )
    head, origin = "", f"fine-tuned from `{settings.get('drafter', 'a drafter')}`"
    if settings.get("kind", "model") != "model":
        head, origin = _about_head(results), "a head, trained from new weights"
    unnamed = {"drafter": "a drafter", "target": "a target", "data": "items in memory"}
    made = {
        "all_tokens": sum(results["train_tokens"].values()),
        "least": 1 - settings["tolerance"],
        "resamples": NUM_RESAMPLES,
        "table": table_of(results, "github"),
    }
    texts = {"name": name, "summary": summary, "cache": cache, "head": head, "origin": origin}
    template = (importlib.resources.files(__package__) / "card_template.md").read_text("utf-8")
    return template.format_map(unnamed | settings | results | made | texts)


def _about_head(results: dict[str, Any]) -> str:
    about = results["head"]
    layers = ", ".join(map(str, about["feature_layers"]))
    text = (
        f"\nAn EAGLE-3 head in the form of vLLM's speculators. It reads layers {layers} of the "
        f"target and learnt {about['unrolled_steps']} steps unrolled from each place. Overlap and "
        "KL below are means over the steps that are examined.\n"
    )
    if about["coverage"] is not None:
        worst = min(about["coverage"], key=about["coverage"].get)
        text += (
            f"\nIt drafts among {about['draft_vocabulary']:,} tokens, which are "
            f"{about['coverage'][worst]:.1%} of the training text in the least covered group "
            f"({worst}).\n"
        )
    return text


def table_of(results: dict[str, Any], style: str) -> str:
    """Groups before and after as a table, in one of tabulate's styles."""
    rows = [
        [
            name,
            f"{results['train_tokens'][name]:,.0f}",
            group["rows"],
            _plain(group["bytes_per_token"]),
            _arrow(group["overlap"]),
            _arrow(group["kl"]),
            # Older results called it by a name that reports use for another formula.
            _arrow(group.get("textbook_speedup") or group["modelled_speedup"]),
        ]
        for name, group in results["groups"].items()
    ]
    header = ["group", "train tokens", "test rows", "bytes/token"]
    header += ["overlap", "KL (nats)", "textbook speed-up"]
    return tabulate(rows, header, tablefmt=style, disable_numparse=True)


def _arrow(metric: dict[str, Any]) -> str:
    change = metric["change"]
    text = f"{_plain(metric['before'])} → {_plain(metric['after'])}"
    if change["low"] is None:
        return text
    return f"{text} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _plain(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
