#!/usr/bin/env bash
# One would guess: a model's score of a text (one pass) and its greedy decoding (cached steps) agree up
# to rounding.
# What happens (transformers 5.23.0): in Zamba2 a pass over several tokens clamps the step size dt from
# below (time_step_min), a single cached step does not: two models, an order apart from rounding.
# Why it matters: verification scores blocks and plain decoding steps, so a drafter "changes" greedy texts
# though every token was the block's best; log-likelihood tasks and generation tasks test different models.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$work/env/bin/python" - <<'PY'
import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__)
BASE = dict(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_attention_heads=4,
    initializer_range=0.25, bos_token_id=0, eos_token_id=None, pad_token_id=127,
)


def made(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def prompt(length):
    return torch.randint(3, 120, (1, length), generator=torch.Generator().manual_seed(length))


def greedy(model, ids, new=24, **options):
    return model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, **options)


from transformers import Zamba2Config

model = made(Zamba2Config(
    num_hidden_layers=4, num_key_value_heads=4, n_mamba_heads=8, mamba_ngroups=2, mamba_d_state=16,
    layers_block_type=["mamba", "hybrid"] * 2, num_mem_blocks=1, use_mamba_kernels=False, **BASE,
))
gaps = {}
for floor in (model.config.time_step_min, 0.0):
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (floor, float("inf"))
    ids = prompt(70)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[0, -8:]
        cache, steps = model(input_ids=ids[:, :-8], use_cache=True).past_key_values, []
        for place in range(62, 70):
            one = model(input_ids=ids[:, place:place + 1], past_key_values=cache, use_cache=True)
            steps.append(one.logits[0, -1])
    gaps[floor] = float((torch.stack(steps) - whole).abs().max() / whole.std())
    print(f"time_step_min {floor}: logits of steps and of one pass differ by {gaps[floor]:.1e} "
          "standard deviations")
assert max(gaps.values()) > 100 * gaps[0.0] and gaps[0.0] < 1e-3, "the behaviour has changed"
PY
# Seen: transformers 5.23.0
# time_step_min 0.001: logits of steps and of one pass differ by 6.3e-02 standard deviations
# time_step_min 0.0: logits of steps and of one pass differ by 3.3e-05 standard deviations
