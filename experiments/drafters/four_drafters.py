"""Make results/drafters: four ways to draft for one target, from runs to a leaderboard.

    make results     # python experiments/drafters/four_drafters.py -o results/drafters

What a user would type, in order: a run of each, the policy that the first one's records ask for and
a run with it, the comparison of all with the first, a submission of each, validated, and the board.
A run that is finished is not made again. Nothing else should use the machine meanwhile: speed-ups
are measured. About 15 minutes on two cores.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

# Folder of the run: what it drafts with, and its name on the board.
RUNS = {
    "embedded": ("drafter=embedded", "embedded drafter"),
    "policy": (
        "drafter=embedded,num_speculative_tokens={out}/policy.json",
        "embedded, policy",
    ),
    "embedded-fair": ("drafter=embedded-fair", "embedded drafter, trained for fairness"),
    "prompt_lookup": ("drafter=prompt_lookup", "prompt lookup"),
}
# compare: 1 says that a gate was not passed, which is a result.
SAID = (0, 1)


def specfair(*arguments: str, into: Path | None = None, fine: tuple[int, ...] = (0,)) -> str:
    """Call a verb; its command as a user would type it. Standard output goes into a file."""
    typed = shlex.join(["specfair", *arguments])
    print(f"$ {typed}" + (f" > {into}" if into else ""), file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "lm_eval_specfair", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE if into else sys.stderr, text=True)
    if done.returncode not in fine:
        sys.exit(f"status {done.returncode}: {typed}")
    if into:
        into.write_text(done.stdout, encoding="utf-8")
        typed += f" > {into}"
    return typed


def is_finished(folder: Path) -> bool:
    run = folder / "run.json"
    return run.exists() and json.loads(run.read_text()).get("finished") is not None


def run(out: Path, name: str, limit: int) -> str:
    arguments = RUNS[name][0].format(out=out)
    folder = out / name
    shown = (
        *("run", "--tasks", "specfair_demo", "--limit", str(limit), "--batch_size", "4"),
        *("--model_args", f"{arguments},baseline=all,records_dir={folder}"),
    )
    if is_finished(folder):
        return shlex.join(["specfair", *shown])
    if folder.exists():
        shown = (*shown[:-1], f"{shown[-1]},resume=true")
    return specfair(*shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("results/drafters"))
    parser.add_argument("--limit", type=int, default=10, help="documents a language")
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }

    typed = [run(out, "embedded", args.limit)]
    policy = ("policy", str(out / "embedded"))
    typed.append(specfair(*policy, "-o", str(out / "policy.json"), "--format", "md",
                          into=out / "policy.md"))  # fmt: skip
    typed += [run(out, name, args.limit) for name in RUNS if name != "embedded"]
    compare = ("compare", *(str(out / name) for name in RUNS), "--gate", "examples/gate.yaml")
    typed.append(specfair(*compare, "--format", "md", into=out / "comparison.md", fine=SAID))
    typed.append(specfair(*compare, "--format", "html", into=out / "comparison.html", fine=SAID))
    for name, (_, title) in RUNS.items():
        typed.append(specfair("submission", "pack", str(out / name), "--name", title))
    typed.append(specfair("submission", "validate", *(str(out / name) for name in RUNS)))
    typed.append(specfair("leaderboard", str(out), "-o", str(out)))
    (out / "commands.sh").write_text("\n".join(typed) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
