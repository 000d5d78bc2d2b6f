"""Answers of a real server as test material: what was asked, and every byte that came back.

    python experiments/serving/record_answers.py http://127.0.0.1:8000 --model embedded \\
        -o tests/serving/recorded/vllm-0.32.0.json

The embedded pair behind it, so that the answers may be kept. A server that refuses a request is
recorded with its refusal.
"""

import argparse
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROMPT = "To save a document, open the File menu."
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
_CHAT = {"messages": [{"role": "user", "content": PROMPT}]}
_COMPLETIONS, _CHATS = "/v1/completions", "/v1/chat/completions"


def cases(api: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """By name, a path and what is sent there beside the model and a temperature of 0."""
    with_ids = {"return_tokens": True} if api == "llamacpp" else {"return_token_ids": True}
    text = {"prompt": PROMPT, "max_tokens": 24, **with_ids}
    its_own = {**text, "timings_per_token": True, "stream": True}
    of_llamacpp = {
        "own": ("/completion", text),
        "own_streamed": ("/completion", its_own),
        "own_to_a_stop_string": ("/completion", {**text, "stop": [" the"]}),
        "own_streamed_to_a_stop_string": ("/completion", {**its_own, "stop": [" the"]}),
        "own_with_a_draft_length": ("/completion", {**text, "speculative.n_max": 0}),
    }
    return {
        **(of_llamacpp if api == "llamacpp" else {}),
        "completion": (_COMPLETIONS, text),
        "completion_of_ids": (_COMPLETIONS, {**text, "prompt": [4150, 266, 3107]}),
        "completion_of_one_token": (_COMPLETIONS, {**text, "max_tokens": 1}),
        "completion_to_a_stop_string": (_COMPLETIONS, {**text, "stop": [" the"]}),
        "completion_to_a_stop_token": (_COMPLETIONS, {**text, "stop_token_ids": [872]}),
        "completion_of_two_prompts": (_COMPLETIONS, {**text, "prompt": [PROMPT, "Ja"]}),
        "completion_streamed": (_COMPLETIONS, {**text, **_USAGE}),
        "completion_streamed_to_a_stop_string": (
            _COMPLETIONS,
            {**text, **_USAGE, "stop": [" the"]},
        ),
        "completion_streamed_without_usage": (_COMPLETIONS, {**text, "stream": True}),
        "completion_sampled": (_COMPLETIONS, {**text, "temperature": 1.0, "seed": 7}),
        "completion_with_unknown_settings": (
            _COMPLETIONS,
            {**text, "num_speculative_tokens": 0, "speculative.n_max": 0},
        ),
        "chat": (_CHATS, {**_CHAT, "max_tokens": 24, **with_ids}),
        "chat_streamed": (_CHATS, {**_CHAT, "max_tokens": 12, **with_ids, **_USAGE}),
        "too_long": (_COMPLETIONS, {**text, "prompt": [5] * 2_000}),
        "unknown_model": (_COMPLETIONS, {**text, "model": "another"}),
        "models": ("/v1/models", {}),
        "version": ("/version", {}),
        "props": ("/props", {}),
        "server_info": ("/get_server_info", {}),
        "metrics": ("/metrics", {}),
    }


def answer(base_url: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """Status, the type of what came, and its text."""
    request = urllib.request.Request(
        base_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as came:
            status, kind, text = came.status, came.headers["Content-Type"], came.read()
    except urllib.error.HTTPError as error:
        status, kind, text = error.code, error.headers["Content-Type"], error.read()
    return {"status": status, "content_type": kind, "text": text.decode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api", choices=["vllm", "sglang", "llamacpp"], default="vllm")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    recorded = {}
    for name, (path, body) in cases(arguments.api).items():
        sent = {"model": arguments.model, "temperature": 0, **body} if body else None
        recorded[name] = {"path": path, "sent": sent, **answer(arguments.base_url, path, sent)}
    recorded["metrics"]["text"] = "".join(
        line
        for line in recorded["metrics"]["text"].splitlines(keepends=True)
        if "spec_decode" in line or ("tokens" in line and "_bucket" not in line)
    )
    for each in recorded.values():  # where the model lies on this machine is nobody's business
        each["text"] = re.sub(r'(?<=[": ])(/[^"/]+)+/(target|[^"/]+\.gguf)', r"\2", each["text"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(recorded, indent=1, ensure_ascii=False)
    arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
