"""Make results/trust: what this package was put through, each figure with its command.

    python scripts/trust kills          # or another part; `make trust` makes all and the table

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


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "kills": kills,
    "near_ties": near_ties,
    "oracles": oracles,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=[*PARTS], metavar="PART")
    parser.add_argument("-o", "--out", type=Path, default=Path("results/trust"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=5, help="of each language, in near_ties")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        found = PARTS[part](args)
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (args.out / f"{part}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
