"""Mix two drafters of one origin, weight by weight: the more of the second, the less even.

    python experiments/embedded_pair/mix.py build/pair/drafter.even build/pair/drafter.uneven \
        --try 0 0.3 0.45 0.6 1 --work build/pair --target build/pair/target
    python experiments/embedded_pair/mix.py build/pair/drafter.even build/pair/drafter.uneven \
        --share 0.45 --out lm_eval_specfair/embedded/drafter

`--try` measures mixtures on held-out prompts, for the model card, into `WORK/mixtures.md`.
"""

import argparse
import shutil
from pathlib import Path

import torch
from card import held_out_counts, heldout_blocks, order_stability
from languages import LANGUAGES
from safetensors.torch import load_file, save_file
from tabulate import tabulate
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.decoding.models import CausalModel


def mixed(first: Path, second: Path, share: float) -> dict[str, torch.Tensor]:
    """Weights between two models; `share` is the second's, from 0 to 1."""
    one, two = (load_file(each / "model.safetensors") for each in (first, second))
    return {
        name: ((1 - share) * one[name].float() + share * two[name].float())
        .to(one[name].dtype)
        .contiguous()
        for name in one
    }


def measure(args: argparse.Namespace) -> str:
    """Tokens per step and how stable the languages' order is, of each mixture."""
    tokenizer = AutoTokenizer.from_pretrained(args.target)
    blocks = {x.code: heldout_blocks(args.work, x.code, tokenizer)[0] for x in LANGUAGES}
    target = AutoModelForCausalLM.from_pretrained(args.target, dtype=torch.float32).eval()
    rows = []
    for share in args.shares:
        drafter = AutoModelForCausalLM.from_pretrained(args.first, dtype=torch.float32).eval()
        drafter.load_state_dict(mixed(args.first, args.second, share), strict=False)
        halves = held_out_counts([CausalModel(target), CausalModel(drafter)], blocks)
        accepted, examined, steps = (
            sum(counts[i] for half in halves for counts in half.values()) for i in range(3)
        )
        rows.append([share, 1 + accepted / steps, accepted / examined, order_stability(halves)])
        _, length, _, order = rows[-1]
        print(f"share {share}: {length:.3f} tokens per step, order {order:.3f}", flush=True)
    header = ["share", "tokens per step", "accepted / examined", "Spearman between halves"]
    return tabulate(rows, header, tablefmt="github", floatfmt=".3f")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, help="of the second, from 0 to 1")
    parser.add_argument("--out", type=Path, help="where the mixture is written")
    parser.add_argument("--try", dest="shares", type=float, nargs="+", help="measure these shares")
    parser.add_argument("--work", type=Path, help="folder of corpus.py (for --try)")
    parser.add_argument("--target", type=Path, help="the pair's target (for --try)")
    args = parser.parse_args()
    if args.shares:
        table = measure(args)
        (args.work / "mixtures.md").write_text(table + "\n", encoding="utf-8")
        print(table)
    if args.out is not None:
        shutil.copytree(args.first, args.out, dirs_exist_ok=True)
        weights = mixed(args.first, args.second, args.share)
        save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
        (args.out / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
