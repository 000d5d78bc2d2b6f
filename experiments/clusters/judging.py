"""Sets of drafters on the same texts: counts by replay, and tables of who gains."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tabulate import tabulate

sys.path += [str(Path(__file__).parents[1] / name) for name in ("fair", "fitted")]
from comparison import COUNTS, Comparison, change_cell, tokens_a_step
from cross_fit import HALVES, SOURCE, lines_of, lines_of_declaration

from lm_eval_specfair.fitting.fit_run import fit
from lm_eval_specfair.records import read_records
from lm_eval_specfair.replays.replay_run import replay

Sets: TypeAlias = Mapping[tuple[int, int], Path]
"""What `train --groups-per-drafter` made, by number of drafters and seed."""

NAMES = {1: "one for all", 2: "two", 4: "four", 8: "eight"}
STORED = "{}, behind the store"
FIGURES = {
    "mean_speedup": "mean of languages",
    "worst_speedup": "worst language",
    "dominant_speedup": "English",
    "unfairness_kl": "U on KL",
}


def cells(folder: Path) -> Iterator[tuple[str, int, list[float]]]:
    """Language, document and counts of each replayed text."""
    for record in read_records(folder):
        counts = [
            record.num_spec_steps,
            record.num_accepted_draft_tokens,
            record.overlap_sum,
            record.kl_sum,
            record.num_distribution_positions,
            record.num_generated_tokens,
            record.num_generated_bytes,
        ]
        yield str(record.group_fields["language"]), record.doc_id, [float(x or 0) for x in counts]


def replayed(
    drafters: dict[str, list[str]], lines: Path, out: Path, cache: Path, documents: str = "all"
) -> list[tuple[str, int, list[float]]]:
    """Counts of all languages, each replayed with its drafter; `drafters` has languages by name."""
    found = []
    for number, (name, languages) in enumerate(drafters.items()):
        folder = out / str(number)
        if not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            sources = [lines / f"{language}.jsonl" for language in languages]
            replay(
                sources, [name], folder,
                target="embedded", target_cache=cache, documents=documents, show_progress=False,
            )  # fmt: skip
        found += cells(folder)
    return found


def counts_of(sets_of: Sets, work: Path, lines: Path, suite: str) -> dict[str, dict]:
    """Counts of each text by arm and seed: one list for each, of `cells`."""
    languages = sorted(path.stem for path in lines.glob("*.jsonl"))
    sets = {"embedded": {0: {"embedded": languages}}}
    sets |= {"embedded-fair": {0: {"embedded-fair": languages}}}
    for (number, seed), folder in sets_of.items():
        clusters = json.loads((folder / "clusters.json").read_text())["clusters"]
        drafters = {str(folder / name): groups for name, groups in clusters.items()}
        sets.setdefault(NAMES[number], {})[seed] = drafters
    judged = work / "judged" / suite
    cache = judged / "target"
    # What is fitted on the demo suite is new to all of the other suite.
    halves = HALVES if suite == "demo" else {"all": "all"}
    found: dict[str, dict] = {}
    for arm, by_seed in sets.items():
        for seed, drafters in by_seed.items():
            out = judged / arm.replace(" ", "-") / str(seed)
            own = replayed(drafters, lines, out / "alone", cache)
            found.setdefault(arm, {})[seed] = own
            behind = []
            for learnt, measured in halves.items():
                store = work / "stores" / learnt
                if not store.exists():
                    fit([SOURCE], store, kind="lookup", documents=learnt)
                named = {f"{store}+{name}": groups for name, groups in drafters.items()}
                behind += replayed(named, lines, out / f"store-{measured}", cache, measured)
            found.setdefault(STORED.format(arm), {})[seed] = behind
    return found


def judge(sets_of: Sets, work: Path, output: Path, declaration: Path | None) -> None:
    """Tables of tokens a step, with changes against one drafter for all."""
    output.mkdir(parents=True, exist_ok=True)
    lines_of(SOURCE, work / "lines")
    suites = {"demo": work / "lines"}
    if declaration is not None:
        (work / "other").mkdir(exist_ok=True)
        suites["declaration"] = lines_of_declaration(declaration, work / "other")[0].parent
    sections, described = [], {}
    for suite, lines in suites.items():
        found = counts_of(sets_of, work, lines, suite)
        everywhere = [
            {document for language, document, _ in one if language == code}
            for by_seed in found.values()
            for one in by_seed.values()
            for code in {language for language, _, _ in one}
        ]
        documents = sorted(set.intersection(*everywhere))
        languages = sorted({language for language, _, _ in found["embedded"][0]})
        counts = {}
        for arm, by_seed in found.items():
            each = np.zeros((len(by_seed), len(documents), len(languages), len(COUNTS)))
            for place, one in enumerate(by_seed.values()):
                for language, document, sums in one:
                    if document in documents:
                        where = documents.index(document), languages.index(language)
                        each[(place, *where)] = sums
            counts[arm] = each
        comparison = Comparison(counts, languages, 1.0, "en")
        described[suite] = comparison.described() | {"documents": len(documents)}
        sections.append(
            f"## {suite}: {len(languages)} languages, {len(documents)} documents each\n\n"
            f"{table(comparison, counts, languages)}\n\n{store_table(comparison, counts)}\n"
        )
    (output / "table.md").write_text("\n".join(sections), encoding="utf-8")
    text = json.dumps(described, indent=1).replace(str(work), "WORK")
    (output / "comparison.json").write_text(text + "\n", encoding="utf-8")
    first = {number: folder for (number, _), folder in reversed(sets_of.items())}
    clusters = {
        str(number): json.loads((folder / "clusters.json").read_text())["clusters"]
        for number, folder in sorted(first.items())
    }
    (output / "clusters.json").write_text(json.dumps(clusters, indent=1) + "\n")
    print("\n".join(sections))


def table(comparison: Comparison, counts: dict[str, np.ndarray], languages: list[str]) -> str:
    """Tokens a step of each arm, and changes against its like with one drafter for all."""
    rows = []
    for arm, each in counts.items():
        figures, _ = comparison.of(arm)
        worst = languages[int(tokens_a_step(each).argmin())]
        mean, least, english = (f"{figures[name]:.3f}" for name in list(FIGURES)[:3])
        alone = arm in (*NAMES.values(), "embedded", "embedded-fair")
        reference = NAMES[1] if alone else STORED.format(NAMES[1])
        changes = [
            "" if arm == reference else change_cell(comparison.change(arm, reference, name))
            for name in FIGURES
        ]
        rows.append([arm, str(len(each)), mean, f"{least} {worst}", english, *changes])
    header = ["drafters", "seeds", "tokens a step", "worst language", "English"]
    header += [f"change: {name}" for name in FIGURES.values()]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def store_table(comparison: Comparison, counts: dict[str, np.ndarray]) -> str:
    """What the store in front gives against one drafter for all without it."""
    names = list(FIGURES)[:3]
    rows = [
        [arm, *(change_cell(comparison.change(arm, NAMES[1], name)) for name in names)]
        for arm in counts
        if arm.endswith(STORED.format(""))
    ]
    header = [f"against {NAMES[1]} alone", *(FIGURES[name] for name in names)]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)
