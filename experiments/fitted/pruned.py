"""A drafter's head cut by frequency and under a floor of coverage, on held-out documents.

    python experiments/fitted/pruned.py results/demo_batch_1 build/temperature/* \
        -o results/pruned_vocabularies --work build/pruned

The first run's texts are replayed; tokens are counted on the even documents of all the runs (the
target's own texts, sampled ones too) and measured on the first run's odd ones, and the other way
round. `specfair compare` of the two ways to cut is published for each size, and what drafting a
token costs, measured here in turns with plain decoding: nothing else should use the core.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import median

from cross_fit import HALVES, by_language, cell, merged, write_by_language

from lm_eval_specfair.cli import main as specfair
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTERS, EMBEDDED_TARGET, load_model
from lm_eval_specfair.decoding.vocabularies.draft_vocabulary_file import DRAFT_VOCABULARY
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import pruned_vocabulary
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.fitting.prune_run import prune
from lm_eval_specfair.records import read_records
from lm_eval_specfair.records.provenance import provenance
from lm_eval_specfair.replays import replay_costs
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.replay_models import load, named_drafter
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.replays.sources.replay_sources import read_texts

FLOORS = [each / 20 for each in range(19, 0, -1)]
PROMPTS, TURNS, SECONDS = 8, 3, 5.0


def cut(sources: list[Path], size: int, floor: float, documents: str, folder: Path) -> Path:
    """The embedded drafter with so many tokens, counted on some of the documents."""
    if not folder.exists():
        prune(
            str(EMBEDDED_DRAFTERS["embedded"]), sources, folder, draft_vocabulary=size,
            coverage_floor=floor, documents=documents,
        )  # fmt: skip
    return folder


def highest_floor(sources: list[Path], size: int, work: Path) -> float:
    """The highest floor that so many tokens can reach in every language, on either half."""
    for floor in FLOORS:
        try:
            for counted in HALVES:
                cut(sources, size, floor, counted, work / counted / f"{size}-floor")
        except ConfigError:
            for counted in HALVES:
                shutil.rmtree(work / counted / f"{size}-floor", ignore_errors=True)
            continue
        return floor
    raise SystemExit(f"{size} tokens cover less than {min(FLOORS):.0%} of some language")


def covered_shares(parts: dict[Path, Path | None]) -> dict[str, float]:
    """The share of held-out tokens that can be drafted, by language: replays and their drafters."""
    sums: dict[str, list[int]] = {}
    for replayed, drafter in parts.items():
        ids = None if drafter is None else pruned_vocabulary(drafter / DRAFT_VOCABULARY)[0]
        for record in read_records(replayed):
            tokens = record.generated_token_ids or []
            own = sums.setdefault(str(record.group_fields["language"]), [0, 0])
            own[0] += sum(ids is None or token in ids for token in tokens)
            own[1] += len(tokens)
    return {language: covered / number for language, (covered, number) in sums.items()}


def costs_of(
    names: dict[str, str], sizes: dict[str, int], texts: list[KnownText]
) -> dict[str, dict]:
    """c by the number of drafted tokens, v and o of all together, in turns here; medians."""
    replay_costs._SECONDS = SECONDS
    target = load_model(str(EMBEDDED_TARGET), "target")
    found: dict[str, list[replay_costs.ReplayCosts]] = {name: [] for name in names}
    for _ in range(TURNS):
        for name, drafter in names.items():
            model = load(drafter, "drafter", "cpu", "auto")
            costs = replay_costs.costs_here(target, named_drafter(drafter), model, texts, 4)
            found[name].append(costs)
    every = [costs for own in found.values() for costs in own]
    shared = {"v": median(c.verify for c in every), "o": median(c.overhead for c in every)}
    return {
        name: {
            "c": median(
                each.draft
                for other in found
                if sizes[other] == sizes[name]
                for each in found[other]
            ),
            **shared,
            "source": f"measured here, 8 rows, medians of {TURNS} turns; v and o of all drafters",
            "turns": [each.draft for each in own],
        }
        for name, own in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="+", help="the first one is replayed")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000])
    arguments = parser.parse_args()
    out, work, source = arguments.output, arguments.work, arguments.run[0]
    out.mkdir(parents=True, exist_ok=True)
    ways = {"whole": (0, 0.0)}
    for size in arguments.sizes:
        floor = highest_floor(arguments.run, size, work)
        ways |= {f"{size}-frequent": (size, 0.0), f"{size}-floor": (size, floor)}
    parts: dict[str, list[Path]] = {name: [] for name in ways}
    for counted, held in HALVES.items():
        drafters = {
            name: "embedded"
            if not size
            else str(cut(arguments.run, size, floor, counted, work / counted / name))
            for name, (size, floor) in ways.items()
        }
        done = replay(
            [source], list(drafters.values()), work / f"replays-{counted}", documents=held,
            target="embedded", show_progress=False,
        )  # fmt: skip
        for name, path in zip(drafters, done.folders, strict=True):
            parts[name].append(path)
    held_texts = read_texts(source, None, max_length=1 << 30, eos_token_id=None).texts
    measured = {
        name: str(work / "even" / name) if size else str(EMBEDDED_DRAFTERS["embedded"])
        for name, (size, _) in ways.items()
    }
    sizes = {name: size for name, (size, _) in ways.items()}
    costs = costs_of(measured, sizes, held_texts[:: len(held_texts) // PROMPTS])
    runs = {name: merged(parts[name], name, costs[name], work / "runs" / name) for name in ways}
    lines = [
        "| drafted tokens | chosen by | c | coverage, worst language | tokens per step "
        "| mean of languages | slowest language | modelled speed-up | slowest language |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_run: dict[str, dict[str, dict]] = {}
    for name, folder in runs.items():
        overall, taus, speeds = by_language(folder)
        by_run[name] = taus
        slow = min(taus, key=lambda group: taus[group]["value"])
        slow_speed = min(speeds, key=lambda group: speeds[group]["value"])
        cuts = [work / counted / name if ways[name][0] else None for counted in HALVES]
        covered = covered_shares(dict(zip(parts[name], cuts, strict=True)))
        least = min(covered, key=covered.__getitem__)
        size, floor = ways[name]
        chosen_by = f"floor {floor:g}" if floor else "frequency" if size else ""
        lines.append(
            f"| {size or 'all 8192'} | {chosen_by} "
            f"| {costs[name]['c']:.3f} | {least} {covered[least]:.0%} "
            f"| {cell(overall['mean_acceptance_length'])} "
            f"| {sum(each['value'] for each in taus.values()) / len(taus):.2f} "
            f"| {slow} {cell(taus[slow])} | {cell(overall['modelled_speedup'])} "
            f"| {slow_speed} {cell(speeds[slow_speed])} |"
        )
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_by_language(by_run, out / "by_language.csv")
    for size in arguments.sizes:
        names = [str(runs[f"{size}-{way}"]) for way in ("frequent", "floor")]
        with (out / f"floor_against_frequency_{size}.md").open("w", encoding="utf-8") as file:
            stdout, sys.stdout = sys.stdout, file
            try:
                specfair(
                    ["compare", *names, "--metric", "mean_acceptance_length", "--format", "md"]
                )
            finally:
                sys.stdout = stdout
    made = provenance() | {"costs": costs}
    (out / "made.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
