"""The arguments of `backend=server`, read and checked before anything is asked."""

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lm_eval_specfair.config import MAX_SPECULATIVE_TOKENS
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.harness.argument_values import (
    check_max_length,
    read_count,
    read_count_or_all,
    read_flag,
)
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.serving.client import Connection
from lm_eval_specfair.serving.protocols import PROTOCOLS

SERVER_ARGUMENTS = (
    "backend", "base_url", "model", "api", "endpoint", "num_concurrent", "timeout", "max_retries",
    "api_key_env", "verify", "baseline_url", "baseline_model", "counts", "stops", "tokenizer",
    "pretrained", "drafter", "num_speculative_tokens", "baseline", "records_dir", "resume", "seed",
    "max_length", "max_gen_toks", "add_bos_token", "think_end_token", "trust_remote_code",
    "revision", "lossless_checks",
)  # fmt: skip
_BY_LM_EVAL = ("batch_size", "max_batch_size", "device")
_KEYS = ("api_key", "key", "token", "auth_token", "openai_api_key")
KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerRunArguments:
    """The arguments of a run on a server.

    Attributes:
        connection: How the server is reached.
        baseline_connection: How the same model without a drafter is, or None.
        model: The served name; None where there is only one.
        baseline_model: That of the baseline.
        api: A name in `PROTOCOLS`, or `auto`.
        endpoint: `completions`, `chat`, or `auto`: chat where lm-eval applies a chat template.
        key_variable: Of the environment, that holds the key.
        counts: `requests` (the server's own, of each), `metrics` or `none` (none at all).
        stops: `auto`, or `server`: stop strings are the server's to find, whatever it counts then.
        tokenizer: Folder or hub id; None without.
        drafter: What drafts there, in the user's words; `none` for a server without a drafter.
        num_speculative_tokens: The most it drafts in a step, in the user's words; 0 if unsaid.
        policy: The same, for the parts that know no server.
    """

    connection: Connection
    baseline_connection: Connection | None
    model: str | None
    baseline_model: str | None
    api: str
    endpoint: str
    key_variable: str
    counts: str
    stops: str
    tokenizer: str | None
    drafter: str
    num_speculative_tokens: int
    baseline: int | Literal["all"]
    records_dir: str | None
    resume: bool
    seed: int
    max_length: int | None
    max_gen_toks: int
    add_bos_token: bool | None
    think_end_token: str | None
    trust_remote_code: bool
    revision: str
    policy: DraftPolicy
    lossless_checks: int = 0  # the target is not here

    @classmethod
    def read(cls, given: dict[str, Any]) -> "ServerRunArguments":
        """Read and check what lm-eval parsed.

        Raises:
            ConfigError: If an argument is unknown, missing or wrong.
        """
        _refuse_unknown(given)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "backend=server is one process with many requests under way; instead of torchrun "
                "or accelerate launch, raise num_concurrent"
            )
        if str(given.get("batch_size") or 1) not in ("1", "auto"):
            raise ConfigError(
                f"--batch_size {given['batch_size']} is for models in this process; with "
                f"backend=server pass num_concurrent={given['batch_size']}"
            )
        counts = _one_of("counts", given, ("requests", "metrics", "none"))
        at_once = read_count("num_concurrent", given.get("num_concurrent", _at_once(counts)))
        if at_once < 1:
            raise ConfigError("num_concurrent must be at least 1, got 0")
        if counts == "metrics" and at_once > 1:
            raise ConfigError(
                f"counts=metrics reads counters around a request that is alone on its server: it "
                f"needs num_concurrent=1, got {at_once}"
            )
        variable = str(given.get("api_key_env", KEY_VARIABLE))
        key = os.environ.get(variable)
        if "api_key_env" in given and not key:
            raise ConfigError(
                f"api_key_env={variable:.60} names an environment variable that is not set; set it "
                "to the server's key"
            )
        url, baseline_url = given.get("base_url"), given.get("baseline_url")
        if not url:
            raise ConfigError(
                "backend=server needs base_url=http://HOST:PORT, the address of a running server"
            )
        connection = Connection(
            base_url=_url("base_url", url),
            key=key,
            timeout=_seconds("timeout", given.get("timeout", 600)),
            max_retries=read_count("max_retries", given.get("max_retries", 5)),
            verify=_verify(given.get("verify", True)),
            num_concurrent=at_once,
        )
        plain = None
        if baseline_url:
            plain = replace(connection, base_url=_url("baseline_url", baseline_url))
        baseline = read_count_or_all("baseline", given.get("baseline", 8 if baseline_url else 0))
        if baseline and not baseline_url:
            raise ConfigError(
                f"baseline={baseline} needs baseline_url=http://HOST:PORT, where the same model is "
                "served without a drafter"
            )
        drafted = given.get("num_speculative_tokens", 0)
        number = read_count("num_speculative_tokens", _no_policy(drafted))
        if number > MAX_SPECULATIVE_TOKENS:
            raise ConfigError(
                f"num_speculative_tokens must be at most {MAX_SPECULATIVE_TOKENS}, got {number}"
            )
        max_length = given.get("max_length")
        check_max_length(max_length)
        max_gen_toks = read_count("max_gen_toks", given.get("max_gen_toks", 256))
        bos = given.get("add_bos_token")
        tokenizer = given.get("tokenizer") or given.get("pretrained")
        if tokenizer is not None and not isinstance(tokenizer, str):
            raise ConfigError(f"tokenizer must be a folder or a hub id, got {tokenizer!r:.80}")
        records_dir, model = given.get("records_dir"), given.get("model")
        baseline_model = given.get("baseline_model", model)
        think_end = given.get("think_end_token")
        return cls(
            connection=connection,
            baseline_connection=plain,
            model=None if model is None else str(model),
            baseline_model=None if baseline_model is None else str(baseline_model),
            api=_one_of("api", given, ("auto", *PROTOCOLS)),
            endpoint=_one_of("endpoint", given, ("auto", "completions", "chat")),
            key_variable=variable,
            counts=counts,
            stops=_one_of("stops", given, ("auto", "server")),
            tokenizer=tokenizer,
            drafter=one_line(given.get("drafter", "server"))[:200],
            num_speculative_tokens=number,
            baseline=baseline,
            records_dir=None if records_dir is None else str(records_dir),
            resume=read_flag("resume", given.get("resume", False)),
            seed=read_count("seed", given.get("seed", 0)),
            max_length=None if max_length is None else int(max_length),
            max_gen_toks=max_gen_toks,
            add_bos_token=None if bos is None else read_flag("add_bos_token", bos),
            think_end_token=None if think_end is None else str(think_end),
            trust_remote_code=read_flag("trust_remote_code", given.get("trust_remote_code", False)),
            revision=str(given.get("revision", "main")),
            policy=DraftPolicy(default=number),
        )

    @property
    def drafts(self) -> bool:
        """Whether the server has a drafter."""
        return self.drafter != "none"

    def places(self) -> dict[str, str]:
        """Where the servers are: another place may serve the same when a run is resumed."""
        both = {"base_url": self.connection, "baseline_url": self.baseline_connection}
        return {name: place.base_url for name, place in both.items() if place is not None}

    def settings(self) -> dict[str, Any]:
        """Settings that must be the same in a run that is resumed; no key is among them."""
        return {
            "backend": "server",
            "drafter": self.drafter,
            "baseline": self.baseline,
            "seed": self.seed,
            "endpoint": self.endpoint,
            "num_concurrent": self.connection.num_concurrent,
            "counts": self.counts,
            "stops": self.stops,
            "tokenizer": None if self.tokenizer is None else Path(self.tokenizer).name,
        }


def _at_once(counts: str) -> int:
    return 1 if counts == "metrics" else 8


def _refuse_unknown(given: dict[str, Any]) -> None:
    for name in given:
        if name.lower() in _KEYS:
            raise ConfigError(
                f"{name} is not taken as an argument, which files and logs would keep: set the "
                f"environment variable {KEY_VARIABLE}, or name another with api_key_env=NAME"
            )
        if name not in SERVER_ARGUMENTS and name not in _BY_LM_EVAL:
            close = difflib.get_close_matches(name, SERVER_ARGUMENTS, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"it takes {', '.join(SERVER_ARGUMENTS)}"
            )
            raise ConfigError(f"unknown argument {name!r:.60} of backend=server; {hint}")


def _one_of(name: str, given: dict[str, Any], values: tuple[str, ...]) -> str:
    value = str(given.get(name, values[0]))
    if value not in values:
        raise ConfigError(f"{name} must be {' or '.join(values)}, got {value!r:.60}")
    return value


def _no_policy(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"\s*-?\d{1,400}\s*", value):
        raise ConfigError(
            "num_speculative_tokens is what the server was started with, a number; draft lengths "
            f"by group are not for backend=server, got {value!r:.60}"
        )
    return value


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{name} must be a number of seconds above 0, got {value!r:.60}")
    return seconds


def _verify(value: object) -> bool | str:
    word = str(value)
    if word.lower() in ("true", "1"):
        return True
    if word.lower() in ("false", "0"):
        return False
    if not Path(word).is_file():
        raise ConfigError(
            f"verify must be true, false or a PEM file of certificate authorities, got {word!r:.80}"
        )
    return word


def _url(name: str, value: object) -> str:
    """A server's address without `/v1` and without anything secret."""
    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port  # raises where it is no number
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ConfigError(f"{name} must be http://HOST:PORT or https://..., got {text!r:.80}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"{name} must be an address only, without user, password or query (keys come from the "
            f"environment variable {KEY_VARIABLE})"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None else f"{host}:{port}"
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return f"{parts.scheme}://{place}{path.removesuffix('/v1')}"
