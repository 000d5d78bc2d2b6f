"""Make results/trust: what this package was put through, each figure with its command.

    python experiments/verification kills  # or another part; `make trust`: all, and the table

Parts can be made one by one and in any order; each leaves a JSON file in the folder.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORK = Path("results/runs/trust")  # what is not published


def kills(args: argparse.Namespace) -> dict[str, Any]:
    from kills import kills

    return kills(WORK / "kills", args.kills)


def near_ties(args: argparse.Namespace) -> dict[str, Any]:
    from near_ties import near_ties

    return near_ties(WORK / "near_ties", args.prompts)


def oracles(args: argparse.Namespace) -> dict[str, Any]:
    from oracles import oracles

    return oracles(1)


def mutants(args: argparse.Namespace) -> dict[str, Any]:
    from suites import suite

    files = ("test_mutants.py", "test_harness_classes.py", "test_conformance_suite.py")
    return suite(WORK, "mutants", *(f"tests/conformance/{file}" for file in files))


def inputs(args: argparse.Namespace) -> dict[str, Any]:
    from suites import suite

    return suite(
        WORK, "inputs", "tests/cli/test_wrong_inputs.py", "tests/cli/test_fuzzed_inputs.py"
    )


def faults(args: argparse.Namespace) -> dict[str, Any]:
    from suites import suite

    return suite(
        WORK,
        "faults",
        "tests/harness/test_faults.py",
        "tests/harness/test_distributed.py",
        "tests/harness/test_run_folder.py",
    )


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "mutants": mutants,
    "inputs": inputs,
    "faults": faults,
    "oracles": oracles,
    "near_ties": near_ties,
    "kills": kills,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "table", "all"], metavar="PART")
    parser.add_argument("-o", "--out", type=Path, default=Path("results/trust"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=5, help="of each language, in near_ties")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS if "all" in args.parts else (set(args.parts) & set(PARTS)):
        found = PARTS[part](args)
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (args.out / f"{part}.json").write_text(text, encoding="utf-8")
    from table import table

    (args.out / "README.md").write_text(table(args.out), encoding="utf-8")


if __name__ == "__main__":
    main()
