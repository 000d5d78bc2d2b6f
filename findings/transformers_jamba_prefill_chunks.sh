#!/usr/bin/env bash
# One would guess: reading a prompt in chunks (`prefill_chunk_size`) changes speed and memory, not text.
# What happens (transformers 5.23.0): Jamba writes other texts, since its Mamba-1 layers, given several
# tokens at once, start from an empty state instead of the cached one. A Llama's texts stay the same.
# Why it matters: verifying a block of drafted tokens is the same kind of pass. An engine that verifies
# Jamba in blocks accepts against the wrong distribution, with no error; token by token it is right.
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


from transformers import JambaConfig, LlamaConfig

BASE |= dict(num_key_value_heads=2)
models = {
    "llama": made(LlamaConfig(num_hidden_layers=2, **BASE)),
    "jamba": made(JambaConfig(
        num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, num_experts=1,
        num_experts_per_tok=1, use_mamba_kernels=False, **BASE,
    )),
}
lengths = (17, 20, 24, 29, 32, 40)
equal = {
    name: sum(
        torch.equal(greedy(model, prompt(n)), greedy(model, prompt(n), prefill_chunk_size=8))
        for n in lengths
    )
    for name, model in models.items()
}
for name, number in equal.items():
    print(f"{name}: {number} of {len(lengths)} texts are the same with prefill_chunk_size=8")
assert equal == {"llama": 6, "jamba": 0}, "the behaviour has changed"
PY
# Seen: transformers 5.23.0
# llama: 6 of 6 texts are the same with prefill_chunk_size=8
# jamba: 0 of 6 texts are the same with prefill_chunk_size=8
