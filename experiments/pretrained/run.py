"""Decode each data set once with each target, then replay the texts with all drafters.

    python experiments/pretrained/fetch.py smollm2 gemma3 -o models
    python experiments/pretrained/run.py --models models --work work \
        --data data --declaration udhr.jsonl            # on a GPU: --device cuda --dtype bfloat16

`--data` is a local mirror with MGSM and XQuAD (task_configs/README.md), `--declaration` JSON Lines
with `lang`, `article` and `text`. Texts are plain decodings of the target: no drafter has a part in
them. What is finished is not made again, and what was killed goes on, so stages may be called one
by one: `decode:smollm2:demo`, `replay:smollm2:demo`, `references:smollm2:demo`; `replay` alone
means all of them. Nothing of this is for publication: texts are others', tables.py counts.
"""

import argparse
import functools
import json
import os
import shlex
import sys
import time
from pathlib import Path

from data_sets import DATA_SETS, write_references, write_short_mirror, write_tasks

# Of each target, drafters with its own tokenizer; folders in --models but prompt lookup.
DRAFTERS = {
    "smollm2": (
        *("smollm2-layers25", "smollm2-tuned"),
        *("smollm2-8bit", "smollm2-4bit", "smollm2-3bit"),
    ),
    "gemma3": ("gemma3-layers15", "gemma3-8bit", "gemma3-4bit", "gemma3-3bit"),
}
OTHER_TOKENIZER = {"gemma3": ("smollm2",)}
ORDER = ("demo", "mgsm", "demo-sampled", "xquad", "declaration")
REFERENCES = ("demo", "declaration")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", nargs="*", help="KIND[:TARGET[:DATA SET]]; default: all")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="local mirror of MGSM and XQuAD")
    parser.add_argument("--declaration", type=Path)
    parser.add_argument("--target", action="append", help="default: smollm2 and gemma3")
    parser.add_argument(
        "--drafter",
        action="append",
        help="a folder in --models, named after its target; a target without has prompt lookup",
    )
    parser.add_argument(
        "--documents", choices=("odd", "even"), help="replay half of them, for lack of time"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--overlap", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--references",
        type=int,
        default=16,
        help="documents a language that are read by both models",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    os.environ |= {"TQDM_MININTERVAL": "30", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for stage in args.stage or ("decode", "replay", *FITTED, "elsewhere", "references"):
        kind, target, name = (*stage.split(":"), "", "")[:3]
        for each in ORDER if not name else (name,):
            for one in (target,) if target else args.target or DRAFTERS:
                STAGES[kind](one, each, args)


def decode(target: str, name: str, args: argparse.Namespace) -> None:
    data_set = DATA_SETS[name]
    folder = args.work / target / name
    if is_finished(folder / "texts"):
        return
    tasks = args.work / "tasks"
    if data_set.own:
        write_tasks(data_set, args.declaration, tasks)
    if not data_set.own and args.data is None:
        sys.exit(f"{name} needs --data, a local mirror (task_configs/README.md)")
    mirror = args.data
    if data_set.short_paragraphs:
        mirror = args.work / "data"
        write_short_mirror(args.data, data_set.languages, data_set.documents, mirror)
    if mirror is not None:
        os.environ["SPECFAIR_DATA_DIR"] = str(mirror)
    model = {
        "pretrained": args.models / target,
        "drafter": "none",
        "dtype": args.dtype,
        "baseline": 0,
        "lossless_checks": 1,
        "records_dir": folder / "texts",
        "resume": str((folder / "texts").exists()).lower(),
    }
    call(
        *("run", "--tasks", ",".join(f"{data_set.task}_{one}" for one in data_set.languages)),
        *("--limit", str(data_set.documents), "--batch_size", str(args.batch_size)),
        *("--gen_kwargs", ",".join((*data_set.sampling, f"max_gen_toks={data_set.tokens}"))),
        *("--model_args", ",".join(f"{key}={value}" for key, value in model.items())),
        *("--device", args.device, "--log_samples", "--output_path", str(folder / "samples")),
        *(("--include_path", str(tasks)) if data_set.own else ()),
    )


def replay(target: str, name: str, args: argparse.Namespace) -> None:
    folder = args.work / target / name
    if not is_finished(folder / "texts"):
        return
    own = drafters_of(target, name, args)
    rest = () if args.drafter or DATA_SETS[name].sampling else OTHER_TOKENIZER.get(target, ())
    part = args.documents
    replays = "replays" if part is None else f"replays-{part}"
    groups = {replays: ("prompt_lookup", *own), "other-tokenizer": rest}
    for where, drafters in groups.items():
        missing = [one for one in drafters if not is_finished(folder / where / one)]
        if not missing:
            continue
        aside = target_flags(target, name, args)
        call(
            *("replay", str(folder / "texts"), *drafter_flags(missing, args.models)),
            *(aside if where == replays else ("--tokenizer", str(args.models / target))),
            *(() if part is None else ("--documents", part)),
            *("--dtype", args.dtype, "--device", args.device),
            *("-o", str(output_of(missing, folder / where))),
        )


def references(target: str, name: str, args: argparse.Namespace) -> None:
    if name not in REFERENCES:
        return
    folder = args.work / target / name
    path = args.work / f"{name}-references.jsonl"
    write_references(DATA_SETS[name], args.declaration, path, args.references)
    drafters = drafters_of(target, name, args)
    missing = [one for one in drafters if not is_finished(folder / "references" / one)]
    if missing:
        call(
            *("replay", str(path), "--references", *drafter_flags(missing, args.models)),
            *("--target", str(args.models / target), "--tokenizer", str(args.models / target)),
            *("--target-cache", str(folder / "references-pass"), "--dtype", args.dtype),
            *("--device", args.device, "-o", str(output_of(missing, folder / "references"))),
        )


def drafters_of(target: str, name: str, args: argparse.Namespace) -> list[str]:
    """Those that were made; the copy in 8 bits, which hardly differs, on two greedy data sets."""
    own = [one for one in args.drafter if one.startswith(target)] if args.drafter else []
    asked = own if args.drafter else DRAFTERS[target]
    made = [one for one in asked if (args.models / one).exists()]
    return [one for one in made if name in ORDER[:2] or not one.endswith("-8bit")]


def fitted(kind: str, target: str, name: str, args: argparse.Namespace) -> None:
    """N-grams, or a store, of the target's own texts: of half of them, for the other half."""
    folder = args.work / target / name
    if not is_finished(folder / "texts"):
        return
    for fitted_on, measured_on in (("even", "odd"), ("odd", "even")):
        output, drafter = folder / kind / measured_on, folder / f"{kind}-of-{fitted_on}"
        if is_finished(output):
            continue
        texts = str(folder / "texts")
        if not drafter.exists():
            call("fit", texts, *FITTED[kind], "--documents", fitted_on, "-o", str(drafter))
        asked = ("--documents", measured_on, "--drafter", str(drafter))
        # What looks up has no distributions that a target's pass could be set against.
        aside = target_flags(target, name, args, greedily=kind == "answers")
        call("replay", texts, *asked, *aside, "--device", args.device, "-o", str(output))


FITTED = {"ngram": (), "answers": ("--kind", "lookup")}


def elsewhere(target: str, name: str, args: argparse.Namespace) -> None:
    """A store of all that the target said in the demo suite, on other data."""
    demo, folder = args.work / target / "demo", args.work / target / name
    is_other = name != "demo" and not DATA_SETS[name].sampling
    if not (is_other and is_finished(demo / "texts") and is_finished(folder / "texts")):
        return
    if not is_finished(folder / "elsewhere"):
        store = demo / "answers-of-all"
        if not store.exists():
            call("fit", str(demo / "texts"), *FITTED["answers"], "-o", str(store))
        aside = target_flags(target, name, args, greedily=True)
        asked = ("--drafter", str(store), *aside, "--device", args.device)
        call("replay", str(folder / "texts"), *asked, "-o", str(folder / "elsewhere"))


STAGES = {
    "decode": decode,
    "replay": replay,
    **{kind: functools.partial(fitted, kind) for kind in FITTED},
    "elsewhere": elsewhere,
    "references": references,
}


def target_flags(
    target: str, name: str, args: argparse.Namespace, *, greedily: bool = False
) -> tuple[str, ...]:
    """Greedy texts need no target; its pass adds overlap, and holds the texts against it."""
    if (args.overlap and not greedily) or DATA_SETS[name].sampling:
        cache = str(args.work / target / name / "pass")
        return ("--target", str(args.models / target), "--target-cache", cache)
    return ("--tokenizer", str(args.models / target))


def drafter_flags(drafters: list[str], models: Path) -> list[str]:
    named = [one if one == "prompt_lookup" else str(models / one) for one in drafters]
    return [part for one in named for part in ("--drafter", one)]


def output_of(drafters: list[str], folder: Path) -> Path:
    """With one drafter its own folder, as if it had been one of several."""
    return folder / drafters[0] if len(drafters) == 1 else folder


def is_finished(folder: Path) -> bool:
    run = folder / "run.json"
    return run.exists() and json.loads(run.read_text("utf-8")).get("finished") is not None


def call(*arguments: str) -> None:
    """A verb of specfair, in this process: imports take longer than many a stage."""
    from lm_eval_specfair.cli import main as specfair

    started, before = time.perf_counter(), time.process_time()
    print("$", shlex.join(["specfair", *arguments]), flush=True)
    status = specfair(list(arguments))
    print(
        f"{time.strftime('%H:%M')} {arguments[0]}: {time.perf_counter() - started:.0f} s, of a "
        f"processor {time.process_time() - before:.0f} s, status {status}",
        flush=True,
    )
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
