"""Mix two drafters of one origin, weight by weight: the more of the second, the less even.

    python scripts/embedded_pair/mix.py build/pair/drafter.even build/pair/drafter.uneven 0.45 \
        --out lm_eval_specfair/embedded/drafter
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("share", type=float, help="of the second, from 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shutil.copytree(args.first, args.out, dirs_exist_ok=True)
    one, two = (load_file(each / "model.safetensors") for each in (args.first, args.second))
    mixed = {name: between(one[name], two[name], args.share).to(one[name].dtype) for name in one}
    save_file(mixed, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "model.safetensors").chmod(0o644)


def between(one, two, share: float):
    return ((1 - share) * one.float() + share * two.float()).contiguous()


if __name__ == "__main__":
    main()
