"""Acceptance by language over temperatures, and what a temperature of the drafter's own gives.

    python experiments/temperature/own_temperature.py build/temperature/t* -o results/temperature \
        --work build/temperature/replays

Reads runs of one suite at several temperatures (greedy ones too, and several seeds of each). The
first table is theirs. The texts of sampled runs are replayed with drafters of other temperatures:
the expected number of steps, which is exact for each text, by document. A language's temperature is
chosen on the documents of one half (even or odd numbers, which translations share) and measured on
the other, and the other way round; intervals are over documents, choices made anew each time.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.reporting.report.build_report import build_summary, render

GRID = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
NUM_RESAMPLES = 2_000
LEVEL = (2.5, 97.5)


def temperature_of(run: Path) -> float:
    """The temperature of a run's requests."""
    found = {record.settings.temperature for record in read_records(run) if record.settings}
    [temperature] = found
    return temperature


def measured(runs: Sequence[Path]) -> dict:
    """The report of a temperature's runs together."""
    return json.loads(
        render(build_summary(list(runs), group_by="language", min_requests=2), "json")
    )


def replayed(run: Path, own: float, work: Path) -> Path:
    """The replay of a run with the embedded drafter at a temperature of its own."""
    folder = work / run.name / f"own-{own:g}"
    if not (folder / "run.json").exists():
        replay(
            [run], ["embedded"], folder, target="embedded", target_cache=work / run.name / "pass",
            drafter_temperature=own, show_progress=False,
        )  # fmt: skip
    return folder


class Steps:
    """Tokens and expected steps of all documents: (languages, documents), steps also by grid."""

    def __init__(self, replays: Sequence[Sequence[Path]]) -> None:
        """Of each number of the grid, its replays (one for each seed)."""
        sums: dict[tuple[str, int], np.ndarray] = {}
        for place, folders in enumerate(replays):
            for folder in folders:
                for record in read_records(folder):
                    key = str(record.group_fields["language"]), record.doc_id
                    own = sums.setdefault(key, np.zeros((2, len(replays))))
                    own[:, place] += record.num_generated_tokens, record.expected_spec_steps
        self.languages = sorted({language for language, _ in sums})
        self.documents = sorted({document for _, document in sums})
        shape = (len(self.languages), len(self.documents), len(replays))
        self.tokens, self.steps = np.zeros(shape[:2]), np.zeros(shape)
        for (language, document), own in sums.items():
            at = self.languages.index(language), self.documents.index(document)
            self.tokens[at], self.steps[at] = own[0, 0], own[1]
        self.is_even = np.array([document % 2 == 0 for document in self.documents])

    def rates(self, weights: np.ndarray) -> np.ndarray:
        """Tokens per step, (languages, grid), with a weight for each document."""
        return (self.tokens @ weights)[:, None] / np.einsum("ldg,d->lg", self.steps, weights)

    def cross_fitted(self, weights: np.ndarray, usual: int) -> dict[str, np.ndarray]:
        """Tokens per step of each language: as usual, with one choice for all, with its own."""
        tokens, steps = np.zeros(len(self.languages)), np.zeros((3, len(self.languages)))
        for half in (self.is_even, ~self.is_even):
            choosing = self.rates(weights * ~half)
            held = np.einsum("ldg,d->lg", self.steps, weights * half)
            for_all = int((choosing / choosing[:, [usual]]).mean(0).argmax())
            own = choosing.argmax(1)
            tokens += self.tokens @ (weights * half)
            steps[0] += held[:, usual]
            steps[1] += held[:, for_all]
            steps[2] += held[np.arange(len(own)), own]
        usual_rate, for_all_rate, own_rate = tokens / steps
        return {"usual": usual_rate, "one for all": for_all_rate, "own": own_rate}


def resampled(steps: Steps, usual: int) -> tuple[dict, list[dict]]:
    """The cross-fitted rates of all documents, and of resamples of each half's documents."""
    chance = np.random.default_rng(0)
    halves = [np.nonzero(steps.is_even)[0], np.nonzero(~steps.is_even)[0]]
    found = []
    for _ in range(NUM_RESAMPLES):
        weights = np.zeros(len(steps.documents))
        for half in halves:
            weights += np.bincount(chance.choice(half, len(half)), minlength=len(weights))
        found.append(steps.cross_fitted(weights, usual))
    return steps.cross_fitted(np.ones(len(steps.documents)), usual), found


def interval(values: Sequence[float]) -> str:
    low, high = np.percentile(np.asarray(values), LEVEL)
    return f"[{low:+.1f}, {high:+.1f}]"


def gains(steps: Steps, usual: int) -> tuple[list[str], list[list[str]]]:
    """What choices give, in per cent: a table's rows, and rows by language for the CSV."""
    point, others = resampled(steps, usual)

    def percent(rates: dict, name: str) -> np.ndarray:
        return (rates[name] / rates["usual"] - 1) * 100

    def worst(rates: dict, name: str) -> float:
        return (rates[name].min() / rates["usual"].min() - 1) * 100

    lines, rows = [], []
    for name in ("one for all", "own"):
        each = np.array([percent(rates, name) for rates in others])
        low, high = np.percentile(each, LEVEL, axis=0)
        now = percent(point, name)
        lines.append(
            f"| {name} | {now.mean():+.1f} {interval(each.mean(1))} "
            f"| {worst(point, name):+.1f} {interval([worst(rates, name) for rates in others])} "
            f"| {now.min():+.1f} ... {now.max():+.1f} | {(low > 0).sum()} | {(high < 0).sum()} |"
        )
        if name == "own":
            best = steps.rates(np.ones(len(steps.documents)))
            for place, language in enumerate(steps.languages):
                rows.append(
                    [
                        language,
                        *(f"{rate:.3f}" for rate in best[place]),
                        f"{GRID[int(best[place].argmax())]:g}",
                        f"{now[place]:.1f}",
                        f"{low[place]:.1f}",
                        f"{high[place]:.1f}",
                    ]
                )
    return lines, rows


def cell(estimate: dict) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="decoded, at several temperatures")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="for the replays")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs: dict[float, list[Path]] = {}
    for run in arguments.runs:
        runs.setdefault(temperature_of(run), []).append(run)
    runs = dict(sorted(runs.items()))

    reports = {temperature: measured(own) for temperature, own in runs.items()}
    with (arguments.output / "acceptance.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = ("conditional_acceptance_rate", "overlap", "mean_acceptance_length")
        writer.writerow(
            ["language", *(f"{name} at {each:g}" for name in names for each in reports)]
        )
        for language in sorted(next(iter(reports.values()))["groups"]):
            of = {each: report["groups"][language] for each, report in reports.items()}
            writer.writerow([language, *(cell(of[each][name]) for name in names for each in of)])
    lines = [
        "| temperature | acceptance, all requests | tokens per step | slowest language | fastest "
        "| fastest / slowest |",
        "|---|---|---|---|---|---|",
    ]
    for temperature, report in reports.items():
        rates = {
            group: each["mean_acceptance_length"]["value"]
            for group, each in report["groups"].items()
        }
        slow, fast = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        overall = report["overall"]
        lines.append(
            f"| {temperature:g} | {cell(overall['conditional_acceptance_rate'])} "
            f"| {cell(overall['mean_acceptance_length'])} "
            f"| {slow} {cell(report['groups'][slow]['mean_acceptance_length'])} "
            f"| {fast} {rates[fast]:.2f} | {rates[fast] / rates[slow]:.2f} |"
        )
    for temperature, own in runs.items():
        if not temperature:
            continue
        replays = [[replayed(run, each, arguments.work) for run in own] for each in GRID]
        steps = Steps(replays)
        every = np.ones(len(steps.documents))
        mean = steps.rates(every).mean(0)
        lines += [
            "",
            f"Texts sampled at {temperature:g}, tokens per step (mean of languages) with the "
            "drafter at "
            + ", ".join(f"{each:g}: {rate:.3f}" for each, rate in zip(GRID, mean, strict=True))
            + ".",
            "",
            "| temperature of the drafter | mean of languages, % | slowest language, % "
            "| languages, % | shown to gain | shown to lose |",
            "|---|---|---|---|---|---|",
        ]
        rows, by_language = gains(steps, GRID.index(temperature))
        lines += rows
        name = arguments.output / f"own_{temperature:g}.csv"
        with name.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["language", *(f"tokens per step at {each:g}" for each in GRID), "best",
                 "gain % (cross-fitted)", "low", "high"]
            )  # fmt: skip
            writer.writerows(by_language)
    described = {
        run.name: {key: read_run(run)[key] for key in ("command", "git_commit", "started")}
        for own in runs.values()
        for run in own
    }
    (arguments.output / "runs.json").write_text(json.dumps(described, indent=2) + "\n")
    (arguments.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
