"""Greedy texts of the embedded pair in bf16: exact, certified near-tie, or real bug.

Each prompt of the demo suite is decoded with the drafter and plainly. A text is exact where every
token is the most likely of a full fp64 pass over the same prefix. A token that is not counts as a
tie only where that pass certifies it: its score is within four times the largest error that a
plain bf16 pass over this very text makes; anything else is a real bug. Where the two ways of
decoding part, the place is certified in the same manner.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.reference import in_fp64, judge_greedy, plain_scores
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.harness.paths import task_configs_dir

NUM_TOKENS = 32
NO_EOS = 1_000_000  # so that all texts are whole
ROWS = 8


def decoded(
    engine: Engine, drafter: Drafter, prompts: list[list[int]]
) -> tuple[list[list[int]], int]:
    """Texts in the order of the prompts, and how many drafted tokens they kept."""
    requests = [
        Request(
            request_id=str(place),
            prompt=prompt,
            stopping=Stopping(max_new_tokens=NUM_TOKENS, eos_token_ids=frozenset({NO_EOS})),
        )
        for place, prompt in enumerate(prompts)
    ]
    done = {
        each.request.request_id: each for each in engine.decode(requests, drafter, batch_size=ROWS)
    }
    kept = sum(sum(each.counters.accepted_per_step) for each in done.values())
    return [done[str(place)].token_ids for place in range(len(prompts))], kept


def near_ties(work: Path, num_prompts: int) -> dict[str, Any]:
    """Count, language by language; what was counted before is not counted again.

    Args:
        work: Folder of what was counted.
        num_prompts: Of each language, at most.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    target, drafter = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        for folder in (EMBEDDED_TARGET, EMBEDDED_DRAFTER)
    )
    engine = Engine(CausalModel(target), DecodeConfig())
    speculative = ModelDrafter(
        CausalModel(drafter, role="drafter"), vocab_size=target.config.vocab_size
    )
    plain = NoDrafter(torch.device("cpu"))
    languages: dict[str, dict[str, Any]] = {}
    for file in sorted((task_configs_dir() / "specfair_demo" / "documents").glob("*.jsonl")):
        noted = work / f"{file.stem}-{num_prompts}.json"
        if not noted.exists():
            lines = file.read_text(encoding="utf-8").splitlines()[:num_prompts]
            prompts = [tokenizer(json.loads(line)["prompt"])["input_ids"] for line in lines]
            found = counted(target, engine, speculative, plain, prompts)
            noted.write_text(json.dumps(found), encoding="utf-8")
        languages[file.stem] = json.loads(noted.read_text(encoding="utf-8"))
        print(f"{file.stem}: {languages[file.stem]}", file=sys.stderr, flush=True)
    each = list(languages.values())
    names = [name for name in each[0] if name not in ("errors", "largest_tied_gap")]
    totals: dict[str, Any] = {name: sum(found[name] for found in each) for name in names}
    totals["largest_tied_gap"] = max(found["largest_tied_gap"] for found in each)
    return {"dtype": "bfloat16", "tokens_a_text": NUM_TOKENS, **totals, "languages": languages}


def counted(
    target: Any, engine: Engine, speculative: Drafter, plain: Drafter, prompts: list[list[int]]
) -> dict[str, Any]:
    """Of one language."""
    texts, kept = decoded(engine, speculative, prompts)
    plainly, _ = decoded(engine, plain, prompts)
    found: dict[str, Any] = dict.fromkeys(
        ("texts", "exact", "near_ties", "real_bugs", "tied_tokens"), 0
    )
    found |= {"kept_drafts": kept, "differ_from_plain": 0, "largest_tied_gap": 0.0, "errors": []}
    for prompt, text, other in zip(prompts, texts, plainly, strict=True):
        found["texts"] += 1
        found["differ_from_plain"] += text != other
        verdicts = [
            judge_greedy(target, prompt, each, max_new_tokens=NUM_TOKENS) for each in (text, other)
        ]
        found["errors"] += [each.error for each in verdicts if each.error]
        ours = verdicts[0]
        found["real_bugs"] += any(each.error is not None for each in verdicts)
        found["near_ties"] += ours.error is None and ours.num_ties > 0
        found["exact"] += ours.error is None and ours.num_ties == 0
        found["tied_tokens"] += ours.num_ties
        gap = largest_gap(target, prompt, text)
        found["largest_tied_gap"] = max(found["largest_tied_gap"], gap)
    return found


def largest_gap(target: Any, prompt: list[int], text: list[int]) -> float:
    """How far below the most likely token's fp64 score the text's own token is at most."""
    exact = plain_scores(in_fp64(target), [*prompt, *text[:-1]])[len(prompt) - 1 :]
    chosen = exact.gather(1, torch.tensor(text)[:, None])[:, 0]
    return round(float((exact.max(-1).values - chosen).max()), 6)
