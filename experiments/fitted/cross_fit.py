"""Fitted drafters on held-out documents: fitted on half of a run, replayed on the other half.

    python experiments/fitted/cross_fit.py -o results/fitted_drafters --work build/fitted
    python experiments/fitted/cross_fit.py -o results/fitted_drafters --work build/fitted \
        --declaration DECLARATION.jsonl     # another domain too: lines with lang, article and text

Every drafter is fitted on the even documents of `results/demo_batch_1` and replayed on the odd
ones, and the other way round; the two halves together are a run of all documents, in which each
was new to the drafter. What drafting costs is measured here, each drafter and plain decoding in
turns, four rows together, so nothing else should use the machine (`costs.json`; delete it to
measure again). `specfair policy` chooses among the runs. On the Declaration the target continues
the articles' beginnings, and drafters that were fitted on all of the run's documents are replayed
on what it says; nothing is ever fitted on it, and of its texts nothing but counts is kept.
"""

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from lm_eval_specfair.cli import main as specfair
from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET, load_model
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.fitting.fit_run import fit
from lm_eval_specfair.records import RecordWriter, read_blocks, read_records, read_run, write_run
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.replays import replay_costs
from lm_eval_specfair.replays.replay_models import load_tokenizer, named_drafter
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.replays.sources.replay_sources import read_texts
from lm_eval_specfair.reporting.report.build_report import build_summary, render

SOURCE = Path("results/demo_batch_1")
QUIET = Path("results/drafters/embedded")
HALVES = {"even": "odd", "odd": "even"}  # fitted on, measured on
# By name: what `drafter=` takes; {fitted} is the folder of what was fitted on the other half.
DRAFTERS = {
    "prompt_lookup": "prompt_lookup",
    "suffix_lookup": "suffix_lookup",
    "n-gram": "{fitted}/grams/ngram-all",
    "n-gram by language": "{fitted}/grams/ngram-{language}",
    "answers": "{fitted}/answers",
    "answers+n-gram": "{fitted}/answers+{fitted}/grams/ngram-all",
    "embedded": "embedded",
    "embedded-fair": "embedded-fair",
    "suffix_lookup+embedded": "suffix_lookup+embedded",
    "answers+embedded": "{fitted}/answers+embedded",
    "answers:5+embedded": "{fitted}/answers:5+embedded",
    "answers+embedded-fair": "{fitted}/answers+embedded-fair",
}
IN_POLICY = [name for name in DRAFTERS if name != "n-gram by language"]
BY_LANGUAGE = "n-gram by language"
ROWS, SECONDS, WIDTH, TOKENS = 4, 8.0, 24, 32


def fitted_on(source: Path, documents: str, folder: Path) -> dict[str, float]:
    """Fit n-grams by language and a store; the seconds of each."""
    grams = fit([source], folder / "grams", group_by="language", documents=documents)
    answers = fit([source], folder / "answers", kind="lookup", documents=documents)
    return {
        "texts": grams.drafters[0].about.num_texts,
        "tokens": grams.drafters[0].about.num_tokens,
        "read": grams.seconds[0],
        "n-grams for all": grams.drafters[0].seconds,
        "n-grams of 30 languages": grams.seconds[1] - grams.drafters[0].seconds,
        "answers": answers.seconds[1],
    }


def lines_of(source: Path, folder: Path) -> list[Path]:
    """The texts of a run by language, as JSON Lines."""
    found: dict[str, list[str]] = {}
    for text in read_texts(source, None, max_length=1 << 30, eos_token_id=None).texts:
        line = {
            "request_id": text.request_id,
            "task": text.task,
            "doc_id": text.doc_id,
            "prompt_token_ids": text.prompt,
            "response_token_ids": text.response,
            "max_new_tokens": text.max_new_tokens,
            **text.group_fields,
        }
        found.setdefault(str(text.group_fields["language"]), []).append(json.dumps(line))
    folder.mkdir(parents=True, exist_ok=True)
    for language, lines in found.items():
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sorted(folder.glob("*.jsonl"))


def replayed(
    source: Path, by_language: Iterable[Path], fitted: Path, documents: str, folder: Path
) -> dict[str, list[Path]]:
    """Replay every drafter on some documents: its runs, several of the one by language."""
    names = {
        name: drafter.format(fitted=fitted, language="{language}")
        for name, drafter in DRAFTERS.items()
        if name != BY_LANGUAGE
    }
    marker = folder / "finished.json"
    if marker.is_file():
        known = json.loads(marker.read_text(encoding="utf-8"))
        return {name: [Path(path) for path in paths] for name, paths in known.items()}
    shutil.rmtree(folder, ignore_errors=True)
    done = replay(
        [source], list(names.values()), folder / "all", documents=documents, show_progress=False
    )
    found = {name: [path] for name, path in zip(names, done.folders, strict=True)}
    found[BY_LANGUAGE] = []
    for path in by_language:
        drafter = DRAFTERS[BY_LANGUAGE].format(fitted=fitted, language=path.stem)
        out = folder / "by_language" / path.stem
        replay([path], [drafter], out, documents=documents, show_progress=False)
        found[BY_LANGUAGE].append(out)
    paths = {name: [str(path) for path in each] for name, each in found.items()}
    marker.write_text(json.dumps(paths, indent=2) + "\n", encoding="utf-8")
    return found


def merged(parts: Iterable[Path], name: str, costs: dict, folder: Path) -> Path:
    """One run of several replays of other requests, with its drafter's name and costs."""
    parts = list(parts)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer = RecordWriter(folder)
    for part in parts:
        for record in read_records(part):
            writer.write(record)
    writer.close()
    run = read_run(parts[0])
    weights = {str(read_run(part)["settings"]["drafter_weights"]) for part in parts}
    run["settings"] |= {
        "drafter": name,
        "drafter_weights": weights.pop() if len(weights) == 1 else f"cross-fitted:{name}",
    }
    if run["settings"]["drafter_weights"] == "None":
        run["settings"]["drafter_weights"] = None
    run["costs"] = costs
    run["totals"] = {"records": tally_of(read_blocks(folder)).to_json(run)}
    write_run(folder, run)
    return folder


def measured_costs(names: dict[str, str], prompts: list) -> dict[str, dict]:
    """c of each drafter, measured here beside plain decoding; v and o as `results/drafters` has.

    Verifying is the same pass for all of them, so that it is better known from one quiet run than
    from a short one each.
    """
    quiet = replay_costs.costs_of_run(QUIET).to_json()
    replay_costs._SECONDS = SECONDS
    target = CausalModel(load_model(str(EMBEDDED_TARGET), "target"))
    found = {}
    for name, drafter in names.items():
        read = named_drafter(drafter)
        model = None
        if read.model is not None:
            loaded = CausalModel(load_model(read.model, "drafter"), role="drafter")
            model = ModelDrafter(loaded, vocab_size=target.vocab_size)
        made = read.made(model, vocab_size=target.vocab_size, device=torch.device("cpu"))
        costs = replay_costs.measured_costs(target, made, prompts, 4, batch_size=ROWS)
        found[name] = {
            **costs.to_json(),
            **{key: quiet[key] for key in "vo"},
            "source": f"c measured here with {ROWS} rows; v and o of {QUIET}",
        }
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def declaration(path: Path, known: set[str], work: Path) -> Path:
    """The target's greedy continuations of the articles' beginnings, as JSON Lines."""
    tokenizer = load_tokenizer(str(EMBEDDED_TARGET), None, [])
    requests, about = [], {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = tokenizer.encode(row["text"], add_special_tokens=False)
        if row["lang"] not in known or len(ids) < WIDTH:
            continue
        name = f"declaration_{row['lang']}/{row['article']}"
        stopping = Stopping(
            max_new_tokens=TOKENS, eos_token_ids=frozenset({int(tokenizer.eos_token_id)})
        )
        requests.append(Request(request_id=name, prompt=ids[:WIDTH], stopping=stopping))
        about[name] = {"language": row["lang"], "doc_id": row["article"], "task": "declaration"}
    target = CausalModel(load_model(str(EMBEDDED_TARGET), "target"))
    out = work / "declaration.jsonl"
    with out.open("w", encoding="utf-8") as file:
        for done in Engine(target, DecodeConfig()).decode(
            requests, NoDrafter(target.device), batch_size=8
        ):
            name = done.request.request_id
            line = {
                "request_id": name,
                **about[name],
                "prompt_token_ids": done.request.prompt,
                "response_token_ids": done.token_ids,
                "max_new_tokens": TOKENS,
            }
            file.write(json.dumps(line) + "\n")
    return out


def cell(row) -> str:
    low, high = row.get("low"), row.get("high")
    return f"{row['value']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def by_language(folder: Path) -> tuple[dict, dict, dict]:
    """Metrics of a whole run, and its tokens per step and modelled speed-up by language."""
    summary = build_summary([folder], group_by="language", min_requests=2)
    report = json.loads(render(summary, "json"))
    taus, speeds = (
        {group: each[name] for group, each in report["groups"].items()}
        for name in ("mean_acceptance_length", "modelled_speedup")
    )
    return report["overall"], taus, speeds


def write_by_language(taus: dict[str, dict[str, dict]], path: Path) -> None:
    """Tokens per step as CSV, a row a language and a column a run."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["language", *taus])
        for group in sorted(set().union(*taus.values())):
            own = (of_run.get(group) for of_run in taus.values())
            writer.writerow([group, *("" if each is None else cell(each) for each in own)])


def tables(runs: dict[str, Path], out: Path, stem: str) -> None:
    """A table of all drafters, and their tokens per step by language as CSV."""
    lines = [
        "| drafter | tokens per step | mean of languages | slowest language | fastest "
        "| modelled speed-up | slowest language | c, v, o |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_run: dict[str, dict[str, dict]] = {}
    for name, folder in runs.items():
        overall, taus, speeds = by_language(folder)
        by_run[name] = taus
        worst, best = (pick(taus, key=lambda group: taus[group]["value"]) for pick in (min, max))
        mean = sum(each["value"] for each in taus.values()) / len(taus)
        row = [
            name, cell(overall["mean_acceptance_length"]), f"{mean:.2f}",
            f"{worst} {cell(taus[worst])}", f"{best} {taus[best]['value']:.2f}",
        ]  # fmt: skip
        slowest = min(speeds, key=lambda group: speeds[group]["value"])
        costs = read_run(folder)["costs"]
        row += [
            cell(overall["modelled_speedup"]), f"{slowest} {cell(speeds[slowest])}",
            ", ".join(f"{costs[key]:.3f}" for key in "cvo"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    (out / f"{stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_by_language(by_run, out / f"{stem}_by_language.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--declaration", type=Path, help="JSON Lines with lang, article and text")
    arguments = parser.parse_args()
    out, work = arguments.output, arguments.work
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    by_language = lines_of(SOURCE, work / "lines")

    seconds, parts = {}, dict[str, list[Path]]()
    for learnt, measured in HALVES.items():
        seconds[learnt] = fitted_on(SOURCE, learnt, work / learnt)
        began = time.perf_counter()
        found = replayed(SOURCE, by_language, work / learnt, measured, work / f"replays-{learnt}")
        seconds[learnt]["replays of the other half"] = time.perf_counter() - began
        for name, paths in found.items():
            parts.setdefault(name, []).extend(paths)
    costs_file = out / "costs.json"
    if not costs_file.is_file():  # measured once, on a quiet machine
        held = read_texts(SOURCE, None, max_length=1 << 30, eos_token_id=None).texts
        prompts = [text for text in held if text.doc_id % 2][:: len(held) // 2 // ROWS]
        names = {
            name: drafter.format(fitted=work / "even", language="en")
            for name, drafter in DRAFTERS.items()
        }
        measured_now = measured_costs(names, prompts)
        costs_file.write_text(json.dumps(measured_now, indent=2) + "\n", encoding="utf-8")
    costs = json.loads(costs_file.read_text(encoding="utf-8"))
    runs = {
        name: merged(parts[name], name, costs[name], work / "runs" / name.replace(" ", "_"))
        for name in DRAFTERS
    }
    tables(runs, out, "demo")
    (out / "seconds.json").write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")

    chosen = [str(runs[name]) for name in ("embedded", *IN_POLICY) if name in runs]
    command = ["policy", *dict.fromkeys(chosen), "-o", str(out / "policy.json"), "--format", "md"]
    with (out / "policy.md").open("w", encoding="utf-8") as file:
        stdout, sys.stdout = sys.stdout, file
        try:
            specfair(command)
        finally:
            sys.stdout = stdout

    if arguments.declaration is not None:
        fitted_on(SOURCE, "all", work / "whole")
        source = declaration(arguments.declaration, {path.stem for path in by_language}, work)
        found = replayed(
            source, lines_of_declaration(source, work), work / "whole", "all", work / "declaration"
        )
        other = {
            name: merged(paths, name, costs[name], work / "other" / name.replace(" ", "_"))
            for name, paths in found.items()
        }
        tables({name: other[name] for name in DRAFTERS}, out, "declaration")


def lines_of_declaration(source: Path, work: Path) -> list[Path]:
    """The same by language."""
    folder = work / "declaration_lines"
    folder.mkdir(exist_ok=True)
    found: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        found.setdefault(json.loads(line)["language"], []).append(line)
    for language, lines in found.items():
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sorted(folder.glob("*.jsonl"))


if __name__ == "__main__":
    main()
