#!/usr/bin/env bash
# One would guess: with LLM.int8 (load_in_8bit=True, its defaults) a token's scores depend on the tokens
# before it, as in any causal model, so that a text alone, in a batch, or read in pieces scores alike.
# What happens (bitsandbytes 0.50.2, CPU): columns with an outlier are looked for over all tokens of a
# pass, later tokens and other texts included, so the same prefix gets other scores; with
# llm_int8_threshold=0, and in 4 bits, it does not.
# Why it matters: verifying a block is another pass than decoding a token, so greedy speculation against
# an int8 target does not give the text that decoding it plainly gives, and a text depends on its batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2
"$work/env/bin/python" - "$work" <<'PY' 2> "$work/log" || { cat "$work/log"; exit 1; }
import sys
from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

print("bitsandbytes", version("bitsandbytes"))
torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                     num_attention_heads=4, bos_token_id=0, eos_token_id=None)
model = AutoModelForCausalLM.from_config(config)
for layer in model.model.layers:  # a few activations beyond the threshold of 6, as trained models have
    layer.input_layernorm.weight.data *= 2
model.save_pretrained(sys.argv[1] + "/model")
tokens = torch.randint(1, 256, (4, 24))


@torch.no_grad()
def differences(**settings):
    quantised = AutoModelForCausalLM.from_pretrained(
        sys.argv[1] + "/model", quantization_config=BitsAndBytesConfig(**settings), device_map="cpu"
    ).eval()
    whole = quantised(tokens).logits
    alone = quantised(tokens[:1]).logits
    prefix = quantised(tokens[:, :12]).logits
    return [((a - b).abs().max() / whole.std()).item()
            for a, b in ((whole[:1], alone), (whole[:, :12], prefix))]


found = {
    "int8, defaults": differences(load_in_8bit=True),
    "int8, threshold 0": differences(load_in_8bit=True, llm_int8_threshold=0.0),
    "nf4": differences(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
}
for name, (alone, prefix) in found.items():
    print(f"{name:18} in a batch or alone: {alone:.0e}   with or without what follows: {prefix:.0e}")
assert min(found.pop("int8, defaults")) > 1e-3, "it has changed"
assert max(max(each) for each in found.values()) < 1e-4, "it has changed"
PY
# Seen, relative to the scores' standard deviation:
# bitsandbytes 0.50.2
# int8, defaults     in a batch or alone: 4e-02   with or without what follows: 4e-02
# int8, threshold 0  in a batch or alone: 0e+00   with or without what follows: 0e+00
# nf4                in a batch or alone: 0e+00   with or without what follows: 2e-06
