#!/usr/bin/env bash
# One would guess: with a cache given, a model works out the position of the next token by itself, or says
# that it needs `position_ids`.
# What happens (transformers 5.23.0): Bamba and MiniMax count from 0 again in a single cached step, with no
# error; scores are off by more than their own spread. `generate` passes positions, so it is right.
# Why it matters: whoever writes a drafter or a verifier around `model(ids, past_key_values=cache)`, right for
# Llama, gets a drafter that is hardly ever accepted, and takes it for a misfit of the language.
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


from transformers import BambaConfig, LlamaConfig, MiniMaxConfig

BASE |= dict(num_key_value_heads=2)
models = {
    "llama": made(LlamaConfig(num_hidden_layers=2, **BASE)),
    "bamba": made(BambaConfig(
        num_hidden_layers=2, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16,
        mamba_d_state=16, mamba_n_groups=1, **BASE,
    )),
    "minimax": made(MiniMaxConfig(
        num_hidden_layers=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1, block_size=16,
        layer_types=["linear_attention", "full_attention"], **BASE,
    )),
}
ids, gaps = prompt(20), {}
for name, model in models.items():
    with torch.no_grad():
        right = model(input_ids=ids, use_cache=False).logits[0, -1]
        for told in (False, True):
            cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
            where = dict(position_ids=torch.tensor([[19]])) if told else {}
            step = model(input_ids=ids[:, -1:], past_key_values=cache, **where).logits[0, -1]
            gaps[name, told] = float((step - right).abs().max() / right.std())
    print(f"{name}: a step differs from one pass by {gaps[name, False]:.1e} standard deviations, "
          f"with position_ids by {gaps[name, True]:.1e}")
assert all(gaps[name, True] < 1e-3 for name in models) and gaps["llama", False] < 1e-3
assert min(gaps["bamba", False], gaps["minimax", False]) > 0.1, "the behaviour has changed"
PY
# Seen: transformers 5.23.0
# llama: a step differs from one pass by 3.5e-06 standard deviations, with position_ids by 3.5e-06
# bamba: a step differs from one pass by 1.0e+00 standard deviations, with position_ids by 1.6e-06
# minimax: a step differs from one pass by 1.7e+00 standard deviations, with position_ids by 2.4e-06
