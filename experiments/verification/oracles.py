"""Our counts and divergences against two others' on the same prompts, up to documented conventions.

- **transformers' assisted generation**, its candidate generator watched: tokens drafted and kept in
  every step, and the texts.
- **economize** (its `record_distributions`): KL and total variation at every drafted token, in
  fp32. Its first token comes from the prompt's pass and ours from the first step, so ours decodes
  after that token; and it does not shorten the last draft, so its last step is cut to ours. Its
  values after the first rejection, which we do not examine, are left out.

economize is needed: `pip install economize==0.3.2`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lm_eval_specfair.conformance.adapter import Ask, AskSettings
from lm_eval_specfair.conformance.backends.assisted import AssistedBackend
from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.harness.paths import task_configs_dir

NUM_TOKENS = 32
DRAFT_LENGTH = 4


def asks_of(prompts: Sequence[Sequence[int]], num_tokens: int) -> list[Ask]:
    return [
        Ask(name=str(place), prompt=tuple(prompt), max_new_tokens=num_tokens)
        for place, prompt in enumerate(prompts)
    ]


def against_assisted(
    target: PreTrainedModel, drafter: PreTrainedModel, prompts: Sequence[Sequence[int]]
) -> dict[str, int]:
    """How many texts, steps and counts agree."""
    settings = AskSettings(num_speculative_tokens=DRAFT_LENGTH, batch_size=8)
    asks = asks_of(prompts, NUM_TOKENS)
    found = dict.fromkeys(("texts", "equal_texts", "steps", "equal_steps", "kept_drafts"), 0)
    ours, theirs = (
        backend.decode(target, drafter, asks, settings)
        for backend in (SpecfairBackend(), AssistedBackend())
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.counts is not None
        assert other.counts is not None
        steps = list(zip(one.counts.drafted, one.counts.accepted, strict=True))
        others = list(zip(other.counts.drafted, other.counts.accepted, strict=True))
        found["texts"] += 1
        found["equal_texts"] += one.token_ids == other.token_ids
        found["steps"] += max(len(steps), len(others))
        found["equal_steps"] += sum(a == b for a, b in zip(steps, others, strict=False))
        found["kept_drafts"] += sum(one.counts.accepted)
    return found


def against_economize(
    target: PreTrainedModel,
    drafter: PreTrainedModel,
    drafter_folder: Path,
    prompts: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Sums of KL and total variation on both sides, and the largest difference of a request's."""
    import economize
    from economize.techniques.draft_model import DraftModelConfig

    model = economize.apply(target, DraftModelConfig(model=str(drafter_folder), dtype="float32"))
    decoding = economize.DecodeConfig(cycle_length=DRAFT_LENGTH + 1, record_distributions=True)
    theirs = [
        model.decode(torch.tensor(list(prompt)), NUM_TOKENS + 1, decoding=decoding)
        for prompt in prompts
    ]
    behind = [[*prompt, int(each.tokens[0])] for prompt, each in zip(prompts, theirs, strict=True)]
    ours = SpecfairBackend().decode(
        target,
        drafter,
        asks_of(behind, NUM_TOKENS),
        AskSettings(num_speculative_tokens=DRAFT_LENGTH, batch_size=8),
    )
    found: dict[str, float] = dict.fromkeys(
        ("texts", "equal_texts", "steps", "equal_steps", "positions"), 0
    )
    sums = dict.fromkeys(("kl", "kl_theirs", "tv", "tv_theirs"), 0.0)
    largest = {"kl": 0.0, "tv": 0.0}
    for one, other in zip(ours, theirs, strict=True):
        assert one.counts is not None
        kl, tv = [], []
        found["texts"] += 1
        found["equal_texts"] += one.token_ids == other.tokens[1:].tolist()
        for step, (drafted, kept) in enumerate(
            zip(one.counts.drafted, one.counts.accepted, strict=True)
        ):
            if not drafted:  # the last token needs no draft; economize drafts for it all the same
                continue
            found["steps"] += 1
            found["equal_steps"] += min(other.acceptance[step][1], drafted) == kept
            for _, divergence, variation in other.match[step][: min(kept + 1, drafted)]:
                kl.append(float(divergence))
                tv.append(float(variation))
        found["positions"] += len(kl)
        assert len(kl) == one.sums["positions"]
        pairs = {
            "kl": (one.sums["kl"], sum(kl)),
            "tv": (one.sums["positions"] - one.sums["overlap"], sum(tv)),
        }
        for name, (mine, its) in pairs.items():
            sums[name] += mine
            sums[f"{name}_theirs"] += its
            largest[name] = max(largest[name], abs(mine - its))
    return {
        **found,
        **{f"{name}_sum": round(value, 6) for name, value in sums.items()},
        **{f"largest_difference_of_a_texts_{name}": value for name, value in largest.items()},
    }


def oracles(num_prompts: int) -> dict[str, Any]:
    """The embedded pair on the demo suite's prompts.

    Args:
        num_prompts: Of each language.
    """
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
    prompts = [
        tokenizer(json.loads(line)["prompt"])["input_ids"]
        for file in sorted((task_configs_dir() / "specfair_demo" / "documents").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()[:num_prompts]
    ]
    target, drafter = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (EMBEDDED_TARGET, EMBEDDED_DRAFTER)
    )
    found: dict[str, Any] = {"prompts": len(prompts), "versions": AssistedBackend().versions()}
    found["assisted"] = against_assisted(target, drafter, prompts)
    print(found, file=sys.stderr, flush=True)
    import economize

    found["versions"]["economize"] = economize.__version__
    found["economize"] = against_economize(target, drafter, EMBEDDED_DRAFTER, prompts)
    return found
