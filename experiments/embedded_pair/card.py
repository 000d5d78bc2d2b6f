"""Measure the embedded pair and write its model card, `lm_eval_specfair/embedded/README.md`.

    specfair run --tasks specfair_demo --batch_size 8 --model_args records_dir=results/embedded_pair
    python experiments/embedded_pair/card.py --work build/pair --records results/embedded_pair \
        --share 0.45

Every figure in the card comes from here: loss on held-out files of the corpus, the cost of a pass,
acceptance from the records of a run on the demo suite. `--work` is the folder that corpus.py and
pretrain.py filled.
"""

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from languages import LANGUAGES
from scipy.stats import spearmanr
from tabulate import tabulate
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records import Record, measured, read_records, read_run

EMBEDDED = Path(__file__).resolve().parents[2] / "lm_eval_specfair" / "embedded"
BLOCK = 512
TOKENS_PER_LANGUAGE = 8_000
TIMED_PASSES = 300
PROMPTS_PER_LANGUAGE, PROMPT_TOKENS, NEW_TOKENS = 60, 32, 40
CONTEXT = 150


def heldout_blocks(work: Path, language: str, tokenizer) -> tuple[list[list[int]], int]:
    """Token blocks of a language's held-out files, and the bytes that they stand for."""
    blocks: list[list[int]] = []
    total = size = 0
    for line in (work / "corpus/heldout" / f"{language}.jsonl").open(encoding="utf-8"):
        text = json.loads(line)["text"]
        ids = tokenizer(text, verbose=False)["input_ids"]
        for first in range(0, len(ids), BLOCK):
            block = ids[first : first + BLOCK]
            blocks.append([tokenizer.eos_token_id, *block])
            total += len(block)
            size += len(tokenizer.decode(block).encode())
        if total >= TOKENS_PER_LANGUAGE:
            break
    return blocks, size


@torch.inference_mode()
def loss(model: PreTrainedModel, blocks: list[list[int]]) -> tuple[float, int]:
    """Summed nats over all blocks, and their tokens."""
    nats, tokens = 0.0, 0
    for block in blocks:
        ids = torch.tensor([block])
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        nats -= float(logprobs.gather(1, ids[0, 1:, None]).double().sum())
        tokens += len(block) - 1
    return nats, tokens


def pass_seconds(models: list[CausalModel], widths: list[int]) -> list[float]:
    """Median seconds of a pass at batch 1 over `widths` tokens.

    The models take turns, four passes each, as when drafting and verifying.
    """
    for model in models:
        model.reset()
        model.read_prompts([0], [list(range(100, 100 + CONTEXT))])
    times: list[list[float]] = [[] for _ in models]
    for _ in range(TIMED_PASSES):
        for model, width, taken in zip(models, widths, times, strict=True):
            tokens = torch.full((1, width), 300)
            for _ in range(4):
                began = time.perf_counter()
                model.score(tokens)
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


Counts = dict[str, list[int]]


def held_out_counts(pair: list[CausalModel], blocks: dict[str, list[list[int]]]) -> list[Counts]:
    """Decode two disjoint halves of held-out prompts greedily.

    Returns:
        For each half, accepted and examined tokens and steps of each language.
    """
    target, small = pair
    drafter = ModelDrafter(small, vocab_size=target.vocab_size)
    counts: list[Counts] = [{language: [0, 0, 0] for language in blocks} for _ in "ab"]
    requests = []
    for language, rows in blocks.items():
        tokens = [token for row in rows for token in row[1:]]
        starts = range(0, len(tokens) - PROMPT_TOKENS, PROMPT_TOKENS)
        for number, first in enumerate(list(starts)[:PROMPTS_PER_LANGUAGE]):
            prompt = tokens[first : first + PROMPT_TOKENS]
            stopping = Stopping(max_new_tokens=NEW_TOKENS)
            name = f"{language}/{number}"
            requests.append(Request(request_id=name, prompt=prompt, stopping=stopping))
    engine = Engine(target, DecodeConfig())
    done = engine.decode(requests, drafter, batch_size=8)
    for completion in tqdm(done, total=len(requests), desc="held-out prompts"):
        language, number = completion.request.request_id.split("/")
        mine = counts[int(number) % 2][language]
        mine[0] += sum(completion.counters.accepted_per_step)
        mine[1] += completion.counters.num_examined
        mine[2] += completion.counters.num_steps
    return counts


def order_stability(halves: list[Counts]) -> float:
    """Spearman correlation of the languages' acceptance between two disjoint halves of prompts."""
    alphas = [[accepted / examined for accepted, examined, _ in half.values()] for half in halves]
    return float(spearmanr(*alphas).statistic)


def language_of(record: Record) -> str:
    return record.task.removeprefix("specfair_demo_")


def acceptance_length(records: list[Record]) -> float:
    """Tokens per step, pooled: 1 + accepted / steps."""
    accepted = sum(record.num_accepted_draft_tokens or 0 for record in records)
    return 1 + accepted / sum(record.num_spec_steps or 0 for record in records)


def alpha(records: list[Record]) -> float:
    """Accepted over examined, pooled."""
    accepted = sum(record.num_accepted_draft_tokens or 0 for record in records)
    return accepted / sum(record.num_examined_draft_tokens or 0 for record in records)


def demo_counts(by_language: dict[str, list[Record]]) -> list[Counts]:
    """Accepted, examined and steps of each language on two disjoint halves of the documents."""

    def total(rows: list[Record], half: int) -> list[int]:
        mine = [row for row in rows if row.doc_id % 2 == half]
        names = ("num_accepted_draft_tokens", "num_examined_draft_tokens", "num_spec_steps")
        return [sum(getattr(row, name) or 0 for row in mine) for name in names]

    return [{code: total(rows, half) for code, rows in by_language.items()} for half in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of corpus.py")
    parser.add_argument("--records", type=Path, required=True, help="a run on specfair_demo")
    parser.add_argument("--share", type=float, required=True, help="of mix.py")
    parser.add_argument("--embedded", type=Path, default=EMBEDDED, help="target/ and drafter/")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.embedded / "target")
    pair = [
        AutoModelForCausalLM.from_pretrained(args.embedded / name, dtype=torch.float32).eval()
        for name in ("target", "drafter")
    ]
    wrapped = [CausalModel(model) for model in pair]
    target, drafter = wrapped
    seconds = pass_seconds([target, drafter, target], [1, 1, 5])

    answered = measured(read_records(args.records))
    records = [r for r in answered if r.request_type == "generate_until"]
    by_language: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_language[language_of(record)].append(record)

    sizes = json.loads((args.work / "corpus/sizes.json").read_text())
    rows, sums, all_blocks = [], [0.0, 0.0, 0], {}
    for language in tqdm(LANGUAGES, desc="held-out loss"):
        blocks, size = heldout_blocks(args.work, language.code, tokenizer)
        all_blocks[language.code] = blocks
        (ours, tokens), (theirs, _) = (loss(model, blocks) for model in pair)
        sums = [sums[0] + ours, sums[1] + theirs, sums[2] + tokens]
        mine = by_language[language.code]
        rows.append(
            [
                language.code,
                language.script,
                f"{sizes[language.code]['train'] / 1e6:.2f}",
                language.epochs,
                tokens,
                f"{size / tokens:.2f}",
                f"{ours / tokens:.3f}",
                f"{theirs / tokens:.3f}",
                f"{ours / size / 0.693147:.3f}",
                f"{acceptance_length(mine):.3f}",
                f"{alpha(mine):.3f}",
            ]
        )
    header = [
        "language",
        "script",
        "MB",
        "epochs",
        "held-out tokens",
        "bytes per token",
        "target",
        "drafter",
    ]
    header += ["target bits per byte", "tokens per step", "accepted / examined"]
    halves = held_out_counts([target, drafter], all_blocks)
    accepted, steps = (sum(x[i] for half in halves for x in half.values()) for i in (0, 2))
    run = read_run(args.records)
    facts = {
        "parameters": [sum(p.numel() for p in model.parameters()) for model in pair],
        "target_seconds": seconds[0],
        "drafter_seconds": seconds[1],
        "cost_ratio": seconds[1] / seconds[0],
        "verify_cost_ratio": seconds[2] / seconds[0],
        "mean_acceptance_length": acceptance_length(records),
        "conditional_acceptance_rate": alpha(records),
        "stability": order_stability(demo_counts(by_language)),
        "held_out_stability": order_stability(halves),
        "held_out_acceptance_length": 1 + accepted / steps,
        "target_loss": sums[0] / sums[2],
        "drafter_loss": sums[1] / sums[2],
        "threads": torch.get_num_threads(),
        "processor": run["hardware"]["processor"],
        "python": platform.python_version(),
        "settings": run["settings"],
    }
    (args.records / "pair.json").write_text(json.dumps(facts, indent=2) + "\n")
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    mixtures = (args.work / "mixtures.md").read_text(encoding="utf-8")
    card = template.format(
        mixtures="\n".join(f"  {line}" for line in mixtures.splitlines()),
        uneven=args.share,
        even=round(1 - args.share, 3),
        table=tabulate(rows, header, tablefmt="github"),
        gap=facts["drafter_loss"] - facts["target_loss"],
        target_parameters=facts["parameters"][0] / 1e6,
        drafter_parameters=facts["parameters"][1] / 1e6,
        target_ms=1e3 * seconds[0],
        drafter_ms=1e3 * seconds[1],
        gamma=run["settings"]["num_speculative_tokens"],
        **{k: v for k, v in facts.items() if k not in ("parameters", "settings")},
    )
    (args.embedded / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
