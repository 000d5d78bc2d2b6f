#!/usr/bin/env bash
# One would guess: SamplingConfig(top_p=...) restricts what is sampled, and a result's acceptance_rate is
# that of the call that returned it.
# What happens (flashspec 0.3.1): with the default, lossless variant top_p is accepted and ignored, so half
# of the tokens lie outside a nucleus of 0.5; acceptance_rate is a mean over the engine's whole life, so
# the same request reports another rate later.
# Why it matters: acceptance by language read from these results belongs to another distribution, and every
# group's figure is mixed with those that were decoded before it: use a fresh engine for each.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 flashspec==0.3.1
"$work/env/bin/python" - <<'PY'
from importlib.metadata import version

import torch
import transformers
from flashspec import FlashSpecConfig, SamplingConfig, SpeculativeEngine
from flashspec.engine import HuggingFaceDrafter, TargetModel
from transformers import AutoModelForCausalLM, LlamaConfig

transformers.logging.set_verbosity_error()
print("flashspec", version("flashspec"))
CPU, NUCLEUS = torch.device("cpu"), 0.5


def made():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_hidden_layers=2, initializer_range=0.25, bos_token_id=0, eos_token_id=None,
    )).eval()


def engine():
    settings = SamplingConfig(temperature=1.0, top_p=NUCLEUS, seed=0)
    drafter = HuggingFaceDrafter("drafter", CPU, torch.float32, model=small)
    drafter.set_temperature(1.0)
    target = TargetModel("target", CPU, torch.float32, model=large)
    return SpeculativeEngine(FlashSpecConfig(device="cpu", sampling=settings), [drafter], target)


def prompt(seed):
    return torch.randint(1, 64, (1, 12), generator=torch.Generator().manual_seed(seed))


large, small = made(), made()
with torch.no_grad():  # a drafter that agrees with the target only in part
    for weights in small.parameters():
        weights.add_(0.3 * weights.std() * torch.randn_like(weights))
one, outside, total, results = engine(), 0, 0, []
for seed in (*range(20), 0):
    results.append(one.generate(prompt(seed), max_new_tokens=24))
    ids = torch.cat([prompt(seed), results[-1].output_ids[:, : results[-1].n_tokens_generated]], 1)
    with torch.no_grad():
        rows = large(input_ids=ids).logits[0].softmax(-1)
    for place in range(12, ids.shape[1]):
        p = rows[place - 1]
        # Outside: the tokens likelier than this one already hold the nucleus.
        outside += bool(p[p > p[ids[0, place]]].sum() >= NUCLEUS)
        total += 1
print(f"{outside} of {total} sampled tokens lie outside the nucleus of top_p={NUCLEUS}")
first, last = results[0], results[-1]
assert torch.equal(first.output_ids, last.output_ids)
print(f"the same request: acceptance_rate {first.acceptance_rate:.3f} as the first of an engine, "
      f"{last.acceptance_rate:.3f} as its 21st")
assert outside > 0.3 * total and first.acceptance_rate != last.acceptance_rate, "it has changed"
PY
# Seen: flashspec 0.3.1
# 242 of 504 sampled tokens lie outside the nucleus of top_p=0.5
# the same request: acceptance_rate 0.066 as the first of an engine, 0.167 as its 21st
