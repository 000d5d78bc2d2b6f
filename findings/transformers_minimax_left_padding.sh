#!/usr/bin/env bash
# One would guess: with an attention mask, a left-padded row of a batch gets the text it gets alone.
# What happens (transformers 5.23.0): MiniMax-Text-01, whose first layer is linear attention, gives the
# padded rows other texts; where the first layer has full attention they are right.
# Why it matters: a plain baseline made with `generate` in batches is wrong for the shorter prompts, that
# is for some languages, and a lossless drafter is then blamed for the difference.
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


from transformers import MiniMaxConfig

BASE |= dict(num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1)
lengths, found = (17, 20, 24, 29, 32, 40), {}
width = max(lengths)
batch = torch.cat([
    torch.cat([torch.full((1, width - n), 127), prompt(n)], 1) for n in lengths
])
mask = (batch != 127).long()
for first, second in (("linear_attention", "full_attention"), ("full_attention", "linear_attention")):
    model = made(MiniMaxConfig(num_hidden_layers=4, layer_types=[first, second] * 2, block_size=16, **BASE))
    texts = greedy(model, batch, attention_mask=mask)[:, width:]
    alone = [greedy(model, prompt(n))[0, n:] for n in lengths]
    found[first] = sum(map(torch.equal, texts, alone))
    print(f"first layer {first}: {found[first]} of {len(lengths)} rows have the text they get alone")
assert found == {"linear_attention": 1, "full_attention": 6}, "the behaviour has changed"
PY
# Seen: transformers 5.23.0
# first layer linear_attention: 1 of 6 rows have the text they get alone
# first layer full_attention: 6 of 6 rows have the text they get alone
