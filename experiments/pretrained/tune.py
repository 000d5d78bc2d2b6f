"""A target's first layers, fine-tuned to draft for it; and the same with fewer draft tokens.

    python experiments/embedded_pair/corpus.py --work build/pair     # texts, split by file
    python experiments/pretrained/fetch.py smollm2 -o models
    python experiments/pretrained/tune.py smollm2 --models models --work work \
        --corpus build/pair/corpus

Leaves MODELS/NAME-tuned, and MODELS/NAME-tuned-N that drafts N tokens, the most frequent ones with
a floor under each language's share. The texts are the corpus's (documentation of programs), in the
languages of the demo suite here; nothing that is measured on is among them. bf16 products, some 25
minutes of two busy cores; a training that was killed is resumed.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from data_sets import DEMO
from fetch import first_layers, is_whole, save
from run import call
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path += [str(Path(__file__).parents[1] / "fair")]
from texts import write_texts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=307_200)
    parser.add_argument("--weighting", default="s-cdf")
    parser.add_argument("--draft-vocabulary", type=int, default=8000)
    parser.add_argument("--share", type=float, default=0.3, help="of the corpus's files")
    args = parser.parse_args()
    target, work = args.models / args.target, args.work / "tuned"
    work.mkdir(parents=True, exist_ok=True)
    texts, start = work / "texts.jsonl", work / f"{args.target}-layers{args.layers}"
    if not texts.exists():
        write_texts(args.corpus, DEMO, args.share, texts)
    if not is_whole(start):
        model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
        save(first_layers(model, args.layers), AutoTokenizer.from_pretrained(target), start)
    tuned = args.models / f"{args.target}-tuned"
    if not is_whole(tuned):
        made = work / f"{args.target}-{args.weighting}"
        call(
            *("train", "--data", str(texts), "--target", str(target), "--drafter", str(start)),
            *("--tokens", str(args.tokens), "--rows", "16", "--micro-rows", "16", "--length", "64"),
            *("--learning-rate", "1e-3", "--num-probes", "4", "--weighting", args.weighting),
            *("--mixed-precision", "bf16", *(["--resume"] if made.exists() else [])),
            *("-o", str(made)),
        )
        shutil.copytree(made, tuned)
    cut = args.models / f"{args.target}-tuned-{args.draft_vocabulary}"
    if not is_whole(cut):
        call(
            *("prune", str(tuned), str(texts), "--group-by", "group", "--coverage-floor", "0.95"),
            *("--draft-vocabulary", str(args.draft_vocabulary), "-o", str(cut)),
        )


if __name__ == "__main__":
    main()
