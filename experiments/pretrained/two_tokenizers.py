"""Two public models with different tokenizers: SmolLM2-135M drafts for Gemma-3-270m.

    python experiments/pretrained/run.py decode:gemma3:demo --models models --work work
    python experiments/pretrained/two_tokenizers.py --models models --work work \
        -o results/pretrained/two_tokenizers.md

Through the tokens that both have (`intersection`) and through text, (a) greedy texts in 12
languages are held against plain decoding, token for token; (b) the law of two sampled tokens is
held against the target's own, enumerated, by a chi-square test; (c) acceptance and the share of
tokens that the drafter can propose are told by language. Half an hour on one core of two.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from tabulate import tabulate
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import Drafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.decoding.vocabularies.choice import foreign_drafter, foreign_vocabulary
from lm_eval_specfair.records import read_records
from lm_eval_specfair.records.requests_file import read_requests

METHODS = ("intersection", "text")
TOP_K = 6  # of sampling: the law of two tokens has so many squared cells
FEWEST_EXPECTED = 5
PROMPTS = {"en": "To save a document, open the", "hi": "दस्तावेज़ को सहेजने के लिए"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--target", default="gemma3")
    parser.add_argument("--drafter", default="smollm2")
    parser.add_argument("--documents", type=int, default=2, help="of each language")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--samples", type=int, default=480, help="for each method and prompt")
    parser.add_argument("--prompts", nargs="+", choices=sorted(PROMPTS), default=sorted(PROMPTS))
    parser.add_argument("--rows", type=int, default=24)
    args = parser.parse_args()
    folders = args.models / args.target, args.models / args.drafter
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in folders
    ]
    target = CausalModel(models[0], role="target")
    drafters, shown = {}, {}
    for method in METHODS:
        vocabulary = foreign_vocabulary(
            *tokenizers,
            args.drafter,
            target_size=target.vocab_size,
            drafter_size=int(models[1].config.vocab_size),
            method=method,
        )
        drafters[method] = foreign_drafter(
            CausalModel(models[1], role="drafter"), vocabulary, *tokenizers
        )
        shown[method] = str(vocabulary)
    shared = set(vocabulary.shared.target_ids.tolist())
    greedy = greedy_table(target, drafters, shared, args)
    law = law_table(target, models[0], tokenizers[0], drafters, args)
    lines = "\n".join(f"- `{name}`: {text}" for name, text in shown.items())
    args.output.write_text(
        f"""# {args.drafter} drafts for {args.target}: two public tokenizers

Made by `experiments/pretrained/two_tokenizers.py`; do not edit. float32, 4 drafted tokens a step.

{lines}

## Greedy texts

Prompts of the demo suite in each language ({args.documents}), {args.tokens} tokens: texts equal to
plain decoding's, token for token; accepted / examined drafts; the share of the texts' tokens that
the drafter's vocabulary has.

{greedy}

## The law of two sampled tokens

Temperature 1, top-k {TOP_K}, {args.samples} texts each, 2 drafted tokens a step; expected counts
from the target's own passes over all {TOP_K**2} texts, cells with fewer than {FEWEST_EXPECTED}
expected taken together.

{law}
""",
        "utf-8",
    )


def greedy_table(
    target: CausalModel, drafters: dict[str, Drafter], shared: set[int], args: argparse.Namespace
) -> str:
    folder = args.work / args.target / "demo" / "texts"
    asked, chosen = read_requests(folder), defaultdict(list)
    for record in sorted(read_records(folder), key=lambda one: one.doc_id):
        language = record.task.rpartition("_")[2]
        if len(chosen[language]) < args.documents:
            chosen[language].append(record)
    texts = {one.request_id: one for records in chosen.values() for one in records}
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    for method, drafter in drafters.items():
        requests = [
            Request(
                request_id=name,
                prompt=asked[name].prompt_token_ids,
                stopping=Stopping(max_new_tokens=args.tokens),
            )
            for name in texts
        ]
        engine = Engine(target, DecodeConfig(num_speculative_tokens=4))
        for done in engine.decode(requests, drafter, batch_size=args.rows):
            plain = texts[done.request.request_id]
            own = counts[plain.task.rpartition("_")[2]][method]
            own[0] += done.token_ids == list(plain.generated_token_ids or [])[: args.tokens]
            own[1] += sum(done.counters.accepted_per_step)
            own[2] += done.counters.num_examined
    rows = []
    for language, records in sorted(chosen.items()):
        tokens = [each for one in records for each in one.generated_token_ids or []]
        row = [language, f"{np.mean([each in shared for each in tokens]):.2f}"]
        for method in drafters:
            equal, accepted, examined = counts[language][method]
            row += [f"{equal} of {len(records)}", f"{accepted} / {examined}"]
        rows.append(row)
    header = ["language", "coverage"]
    header += [part for name in drafters for part in (f"equal, {name}", f"kept, {name}")]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def law_table(
    target: CausalModel,
    model: PreTrainedModel,
    tokenizer: object,
    drafters: dict[str, Drafter],
    args: argparse.Namespace,
) -> str:
    rows = []
    for language in args.prompts:
        prompt = tokenizer(PROMPTS[language]).input_ids  # type: ignore[operator]
        law = two_token_law(model, prompt)
        for method, drafter in drafters.items():
            config = DecodeConfig(num_speculative_tokens=2, temperature=1.0, top_k=TOP_K)
            requests = [
                Request(
                    request_id=f"{language}/{method}/{n}",
                    prompt=prompt,
                    stopping=Stopping(max_new_tokens=2),
                )
                for n in range(args.samples)
            ]
            found: Counter[tuple[int, ...]] = Counter()
            kept = 0
            for done in Engine(target, config).decode(requests, drafter, batch_size=args.rows):
                found[tuple(done.token_ids)] += 1
                kept += sum(done.counters.accepted_per_step)
            strange = sum(number for pair, number in found.items() if pair not in law)
            observed, expected = cells(found, law, args.samples)
            test = stats.chisquare(observed, expected)
            rows.append(
                [language, method, kept, len(observed), strange, f"{test.statistic:.1f}",
                 f"{test.pvalue:.3f}"]
            )  # fmt: skip
    header = ["prompt", "method", "kept drafts", "cells", "impossible texts", "chi-square", "p"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


@torch.no_grad()
def two_token_law(model: PreTrainedModel, prompt: list[int]) -> dict[tuple[int, int], float]:
    """The chance of each text of two tokens, from the target's passes without a cache."""
    first = _truncated(model(torch.tensor([prompt])).logits[0, -1])
    firsts = list(first)
    logits = model(torch.tensor([[*prompt, token] for token in firsts])).logits[:, -1]
    return {
        (one, two): first[one] * chance
        for one, row in zip(firsts, logits, strict=True)
        for two, chance in _truncated(row).items()
    }


def _truncated(scores: torch.Tensor) -> dict[int, float]:
    top = scores.double().topk(TOP_K)
    return dict(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))


def cells(
    found: Counter[tuple[int, ...]], law: dict[tuple[int, int], float], number: int
) -> tuple[list[float], list[float]]:
    """Observed and expected counts, with rare texts in one cell."""
    observed, expected, rest = [], [], [0.0, 0.0]
    for pair, chance in law.items():
        if number * chance >= FEWEST_EXPECTED:
            observed.append(float(found[pair]))
            expected.append(number * chance)
        else:
            rest = [rest[0] + found[pair], rest[1] + number * chance]
    if rest[1]:
        observed.append(rest[0])
        expected.append(rest[1])
    # Impossible texts are told beside it; here they would only make the sums differ.
    scale = sum(observed) / sum(expected)
    return observed, [each * scale for each in expected]


if __name__ == "__main__":
    main()
