"""Put a drafter of experiments/fair/fair_drafters.py into the package, as `drafter=embedded-fair`.

    python experiments/fair/ship_drafter.py build/fair/s-cdf-sampled-0 --data "WORDS FOR THE CARD"

Weights are kept as bf16, as those of the other embedded models; the card that `specfair train`
wrote goes with them.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EMBEDDED = Path(__file__).resolve().parents[2] / "lm_eval_specfair" / "embedded"
NOTE = """

## As `drafter=embedded-fair`

Weights rounded to bf16. The arm is the one of the [table](../../../results/fair_drafters/README.md)
that takes most unfairness away without slowing the mean against plain distillation; the seed is the
first. Licence of the weights: CC-BY-SA-4.0, as the [pair's](../README.md), with its
sources and limits.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run, with drafter/ in it")
    parser.add_argument("--data", required=True, help="what the card calls the data")
    parser.add_argument("--out", type=Path, default=EMBEDDED / "drafter-fair")
    args = parser.parse_args()

    folder = args.run / "drafter"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(args.out)
    AutoTokenizer.from_pretrained(EMBEDDED / "drafter").save_pretrained(args.out)
    path = json.loads((folder / "train.json").read_text())["data"]
    card = (folder / "README.md").read_text(encoding="utf-8").replace(str(path), args.data)
    card = re.sub(r"^# drafter$", "# Embedded drafter, trained for fairness", card, flags=re.M)
    (args.out / "README.md").write_text(card.rstrip() + NOTE, encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
