"""One drafter for all languages, or one for each cluster of them, at one budget together.

    python experiments/embedded_pair/corpus.py --work build/pair       # texts, split by file
    python experiments/clusters/cluster_drafters.py --corpus build/pair/corpus \
        --work build/clusters -o results/clusters

Languages are clustered by how n-grams of each language and the embedded drafter draft texts of all
(training texts, replayed). All drafters begin from the embedded one; those of several clusters
share out the tokens that the one for all reads. Each set is replayed, each language with its
drafter, on the texts of `results/demo_batch_1`, of which nothing was learnt, and with --declaration
(what experiments/fitted/cross_fit.py had the target say of it) on another domain too; then once
more behind a store of earlier answers, fitted on the other half of the documents. A finished
training is not made again; one that was killed is resumed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "fair")]
from judging import judge
from texts import languages_of, write_texts

STAGES = ("served", "train", "judge")
# Groups a drafter by the number of drafters, of 30 languages.
PER_DRAFTER = {1: 30, 2: 15, 4: 8, 8: 4}
PROMPT, RESPONSE = 16, 64  # tokens of a text that is replayed


def specfair(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lm_eval_specfair", *words], check=True)


def write_served(texts: Path, number: int, path: Path) -> None:
    """Beginnings of training texts as if they were answers, some of each language."""
    from transformers import AutoTokenizer

    from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    seen: dict[str, int] = {}
    with path.open("w", encoding="utf-8") as file:
        for line in texts.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            language = row["group"]
            if seen.get(language, 0) >= number:
                continue
            ids = tokenizer.encode(row["text"][:2000], add_special_tokens=False)
            if len(ids) < PROMPT + RESPONSE:
                continue
            seen[language] = seen.get(language, 0) + 1
            text = {
                "prompt_token_ids": ids[:PROMPT],
                "response_token_ids": ids[PROMPT : PROMPT + RESPONSE],
                "language": language,
                "doc_id": seen[language] - 1,
            }
            file.write(json.dumps(text) + "\n")


def served_alike(texts: Path, args: argparse.Namespace) -> list[Path]:
    """Replays of the embedded drafter and of each language's n-grams, on texts of all."""
    out = args.work / "served"
    if not (out / "replays" / "embedded" / "run.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        source = out / "texts.jsonl"
        write_served(texts, args.served, source)
        shared = ["--tokenizer", "embedded"]
        if not (out / "grams").exists():
            specfair(
                "fit", str(source), "--group-by", "language", "--documents", "even", *shared,
                "-o", str(out / "grams"),
            )  # fmt: skip
        drafters = [str(path) for path in sorted((out / "grams").glob("ngram-??"))]
        named = [word for drafter in ["embedded", *drafters] for word in ("--drafter", drafter)]
        specfair(
            "replay", str(source), "--documents", "odd", *shared, *named,
            "-o", str(out / "replays"),
        )  # fmt: skip
    return sorted(path.parent for path in (out / "replays").glob("*/run.json"))


def train(number: int, seed: int, texts: Path, alike: list[Path], args: argparse.Namespace) -> Path:
    out = args.work / f"drafters-{number}-seed-{seed}"
    if (out / "policy.json").exists():
        return out
    words = ["--tokens", str(args.tokens), "--rows", "16", "--length", "64", "--seed", str(seed)]
    words += ["--learning-rate", "1e-3", "--num-probes", "3", "--weighting", args.weighting]
    words += ["--groups-per-drafter", str(PER_DRAFTER[number])]
    words += ["--served-alike", *map(str, alike), *(["--resume"] if out.exists() else [])]
    specfair("train", "--data", str(texts), *words, "-o", str(out))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/clusters"))
    parser.add_argument("--declaration", type=Path, help="what the target says of the Declaration")
    parser.add_argument("--tokens", type=int, default=276_480, help="of all drafters together")
    parser.add_argument("--share", type=float, default=0.3, help="of the corpus's files")
    parser.add_argument("--served", type=int, default=40, help="texts a language to cluster by")
    parser.add_argument("--weighting", default="s-cdf")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--numbers", type=int, nargs="+", choices=PER_DRAFTER, default=[1, 2, 4, 8])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    texts = args.work / "texts.jsonl"
    if not texts.exists():
        write_texts(args.corpus, languages_of(args.corpus), args.share, texts)
    alike = served_alike(texts, args)
    if "train" in args.stages:
        for seed in args.seeds:
            for number in args.numbers:
                train(number, seed, texts, alike, args)
    if "judge" in args.stages:
        sets = {
            (number, seed): folder
            for number in args.numbers
            for seed in args.seeds
            if ((folder := args.work / f"drafters-{number}-seed-{seed}") / "policy.json").exists()
        }
        judge(sets, args.work, args.output, args.declaration)


if __name__ == "__main__":
    main()
