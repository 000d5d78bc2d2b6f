"""How busy `backend=server` keeps a server, beside vLLM's own benchmark client, same requests.

    make vllm-env
    python benchmarks/server_client.py -o results/benchmarks/server_client.md

Both clients ask the demo task's prompts of one vLLM server with the embedded pair, 16 at once,
greedy, streamed; they take turns. What counts is the server's own counter of generated tokens, read
five times a second from outside: tokens a second from a twentieth of all tokens to the last
twentieth, so that neither client's start nor its own clock is in it.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from measuring import (
    ROOT,
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)

from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET
from lm_eval_specfair.serving.prometheus import read_counters

AT_ONCE, AIM, EVERY = 16, 0.95, 0.2
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
# `vllm bench serve`, whose command the package for CPUs lacks.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def prompts(per_language: int) -> list[str]:
    """Of the demo task, its languages in turn."""
    folder = ROOT / "task_configs" / "specfair_demo" / "documents"
    lines = [path.read_text("utf-8").splitlines() for path in sorted(folder.glob("*.jsonl"))]
    return [json.loads(each[n])["prompt"] for n in range(per_language) for each in lines]


def ask_ours(url: str, texts: list[str], tokens: int, folder: Path) -> None:
    """The requests as lm-eval makes them, by `backend=server`; runs in a process of its own."""
    from lm_eval.api.instance import Instance

    from lm_eval_specfair.harness.served.served_model import ServedLM

    model = ServedLM(
        backend="server", base_url=url, model="embedded", tokenizer=str(EMBEDDED_TARGET),
        num_concurrent=AT_ONCE, records_dir=str(folder),
    )  # fmt: skip
    settings = {"until": [], "max_gen_toks": tokens}
    requests = [
        Instance(
            request_type="generate_until", doc={}, arguments=(text, settings), idx=0,
            metadata=("bench", number, 1),
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip
    model.generate_until(requests, disable_tqdm=True)
    model.get_model_info()


class Watch:
    """The server's counter of generated tokens, read again and again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            with urllib.request.urlopen(f"{self._url}/metrics", timeout=60) as page_:
                counters = read_counters(page_.read().decode())
            if counters is not None:
                self._seen.append((time.perf_counter(), counters.tokens))

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(3 * EVERY)
        self._over.set()
        self._thread.join()

    def speed(self, expected: int) -> float:
        """Tokens a second from a twentieth of all tokens to the last twentieth.

        Before and after that a client probes, begins and ends, and fewer than all are under way.
        """
        first, last = self._seen[0][1], self._seen[-1][1]
        if not 0.9 * expected < last - first < 1.1 * expected:
            sys.exit(f"expected about {expected} tokens, the server counted {last - first}")
        within = [
            (when, tokens)
            for when, tokens in self._seen
            if 0.05 * expected <= tokens - first <= 0.95 * expected
        ]
        (start, before), (end, after) = within[0], within[-1]
        return (after - before) / (end - start)


def example():
    """The module that starts servers."""
    spec = importlib.util.spec_from_file_location("e", ROOT / "examples" / "audit_a_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--per-language", type=int, default=4, help="prompts a language (4)")
    parser.add_argument("--tokens", type=int, default=48, help="tokens a prompt (48)")
    parser.add_argument("--ours", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    add_output(parser)
    options = parser.parse_args()
    texts = prompts(options.per_language)
    if options.ours:
        ask_ours(options.ours[0], texts, options.tokens, Path(options.ours[1]))
        return
    load, servers = load_average(), example()
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sent = folder / "prompts.jsonl"
        lines = (json.dumps({"prompt": each, "output_tokens": options.tokens}) for each in texts)
        sent.write_text("\n".join(lines) + "\n", encoding="utf-8")
        rounds = iter(range(1_000))
        with servers.running(servers.vllm_command(port), port, folder / "log") as url:
            theirs = [
                *(str(VLLM), "-c", BENCH_SERVE),
                *("--backend", "openai", "--endpoint", "/v1/completions", "--base-url", url),
                *("--model", "embedded", "--tokenizer", str(EMBEDDED_TARGET)),
                *("--dataset-name", "custom", "--dataset-path", str(sent), "--disable-shuffle"),
                *("--custom-output-len", str(options.tokens), "--skip-chat-template"),
                *("--num-prompts", str(len(texts)), "--max-concurrency", str(AT_ONCE)),
                *("--temperature", "0", "--ignore-eos", "--ready-check-timeout-sec", "0"),
            ]
            own = [sys.executable, __file__, "--tokens", str(options.tokens)]
            own += ["--per-language", str(options.per_language), "--ours", url]

            def measured(command: list[str], *, is_ours: bool) -> float:
                more = [str(folder / f"run{next(rounds)}")] if is_ours else []
                with Watch(url) as watch:
                    done = subprocess.run(
                        [*command, *more],
                        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"},
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                if done.returncode:
                    sys.exit(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
                return watch.speed(len(texts) * options.tokens)

            sides = {
                "backend=server": lambda: measured(own, is_ours=True),
                "vllm bench serve": lambda: measured(theirs, is_ours=False),
            }
            found = interleaved(sides, options.pairs)
    ratio = paired_ratios(*found.values())
    rows = [[name, f"{sum(each) / len(each):.0f}"] for name, each in found.items()]
    note = (
        f"{len(texts)} prompts in 30 languages, {options.tokens} tokens each, {AT_ONCE} at once, "
        f"{options.pairs} pairs of runs after a warm-up, in turns. Server-side tokens a second of "
        f"`backend=server` over those of `vllm bench serve`: **{ratio}** (median, smallest and "
        f"largest of the pairs; aim: at least {AIM}). Server and clients share the machine's cores."
    )
    text = page(
        "The client of backend=server beside vLLM's own",
        [note, markdown_table(["client", "server-side tokens a second, mean"], rows)],
        load=load,
    )
    publish(text, options.output)


if __name__ == "__main__":
    main()
