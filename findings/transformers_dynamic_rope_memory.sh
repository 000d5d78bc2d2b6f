#!/usr/bin/env bash
# One would guess: a greedy text depends on the model and the prompt, not on what was generated before.
# What happens (transformers 5.23.0): with rope_type="dynamic" beyond max_position_embeddings the model
# object remembers the longest position it has ever seen, drafted tokens included, until a short text
# resets it. After one longer text none of five greedy texts is the same; prompt lookup changes all too.
# Why it matters: "speculation changed the text" and "languages with long prompts come out different" may
# both be the order of the requests. A lossless check has to compare against a fresh model.
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


from transformers import LlamaConfig

BASE |= dict(num_key_value_heads=2, num_hidden_layers=2, max_position_embeddings=64)
lengths, found = (70, 80, 90, 100, 110), {}
for kind in ("dynamic", "linear"):
    config = LlamaConfig(
        rope_parameters=dict(rope_type=kind, factor=4.0, rope_theta=10000.0), **BASE
    )
    fresh = [greedy(made(config), prompt(n)) for n in lengths]
    one = made(config)
    greedy(one, prompt(200))
    later = [greedy(one, prompt(n)) for n in lengths]
    reset, lookup = [], []
    for n in lengths:
        greedy(one, prompt(8), 2)
        reset.append(greedy(one, prompt(n)))
        lookup.append(greedy(made(config), prompt(n), prompt_lookup_num_tokens=4))
    found[kind] = [
        sum(map(torch.equal, texts, fresh)) for texts in (later, reset, lookup)
    ]
    print(f"{kind}: of 5 texts {found[kind][0]} are the same after a longer one, {found[kind][1]} "
          f"after a short one in between, {found[kind][2]} with prompt lookup")
assert found["linear"] == [5, 5, 5] and found["dynamic"][1] == 5, "the behaviour has changed"
assert found["dynamic"][0] == 0 and found["dynamic"][2] < 5, "the behaviour has changed"
PY
# Seen: transformers 5.23.0
# dynamic: of 5 texts 0 are the same after a longer one, 5 after a short one in between, 0 with prompt lookup
# linear: of 5 texts 5 are the same after a longer one, 5 after a short one in between, 5 with prompt lookup
