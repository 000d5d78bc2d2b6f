"""Who a server is, which model it serves, and whether it counts: asked before a run begins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.serving.answer import ServedAnswer
from lm_eval_specfair.serving.client import ServedRequestError, ServerClient
from lm_eval_specfair.serving.protocols import PROTOCOLS, Protocol, ServedRequest

# Repeats, so that n-gram drafters find something too.
_PROBE_TEXT = "one two three four one two three four one two three"
_PROBE_TOKENS = 8
_LONGEST_NAME = 200
# What tells one model from another in `/v1/models`; `created` is the time of the asking.
_IDENTITY = ("id", "root", "parent", "owned_by", "max_model_len")
_LLAMACPP_IDENTITY = ("n_vocab", "n_params", "size", "n_ctx_train", "ftype")
_INFO_IDENTITY = {
    "/version": ("version",),
    "/props": ("model_path", "build_info", "chat_template"),
    "/server_info": ("version", "model_path", "weight_version"),
    "/get_server_info": ("version", "model_path", "weight_version"),
    "/model_info": ("model_path", "weight_version"),
    "/get_model_info": ("model_path", "weight_version"),
}
# SGLang's settings of speculation, which are worth keeping with a run.
_DRAFTING = (
    "speculative_algorithm", "speculative_draft_model_path", "speculative_num_steps",
    "speculative_num_draft_tokens", "speculative_eagle_topk",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFacts:
    """A server as it presents itself.

    Attributes:
        protocol: How it is asked.
        model: The served name.
        identity: What tells this server and model from another; for `run.json`.
        simulated: Settings by which it pretends acceptance; None where it does not show such.
        max_length: Longest text, prompt included, in tokens; None where it does not say.
        drafting: Settings of its speculation that it shows.
    """

    protocol: Protocol
    model: str
    identity: dict[str, Any]
    simulated: list[str] | None
    max_length: int | None
    drafting: dict[str, Any] = field(default_factory=dict)


async def server_facts(
    client: ServerClient, *, api: str = "auto", model: str | None = None
) -> ServerFacts:
    """Ask a server who it is.

    Args:
        client: Of the server.
        api: A name in `PROTOCOLS`, or `auto`.
        model: The served name; None where it serves one only.

    Raises:
        ConfigError: If it cannot be reached, does not serve this model, or is not known.
    """
    base_url = client.connection.base_url
    listed = await client.get_json("/v1/models")
    if listed is None or not isinstance(listed.get("data"), list):
        raise ConfigError(
            f"{base_url} does not answer /v1/models as OpenAI's servers do; name the address of a "
            "running vLLM, SGLang or llama.cpp server as base_url"
        )
    entries = [entry for entry in listed["data"] if isinstance(entry, dict) and "id" in entry]
    entry = _chosen(entries, model, base_url, client)
    protocol = _protocol(api, str(entry.get("owned_by", "")), base_url)
    identity = {"api": protocol.name} | {
        name: _short(entry[name]) for name in _IDENTITY if entry.get(name) is not None
    }
    meta = entry.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    identity |= {name: _short(meta[name]) for name in _LLAMACPP_IDENTITY if name in meta}
    info: dict[str, Any] = {}
    for path in protocol.info_paths:
        found = await client.get_json(path)
        if found is not None:
            info |= found
            for name in _INFO_IDENTITY.get(path, ()):
                if found.get(name) is not None:
                    identity[name] = _short(found[name])
    limit = entry.get("max_model_len") or meta.get("n_ctx")
    return ServerFacts(
        protocol=protocol,
        model=str(entry["id"]),
        identity=identity,
        simulated=protocol.simulated(info) if protocol.shows_simulation(info) else None,
        max_length=limit if isinstance(limit, int) and limit > 1 else None,
        drafting={name: _short(info[name]) for name in _DRAFTING if info.get(name) is not None},
    )


def _chosen(
    entries: list[dict[str, Any]], model: str | None, base_url: str, client: ServerClient
) -> dict[str, Any]:
    names = [one_line(client.hidden(str(entry["id"])))[:_LONGEST_NAME] for entry in entries]
    if model is None:
        if len(entries) == 1:
            return entries[0]
        raise ConfigError(
            f"model is required, since {base_url} serves {len(entries)} models: pass model=NAME, "
            f"one of {', '.join(names[:10])}"
        )
    for entry in entries:
        aliases = entry.get("aliases")
        if model == entry["id"] or (isinstance(aliases, list) and model in aliases):
            return entry
    raise ConfigError(
        f"{base_url} does not serve the model {model!r}; it serves {', '.join(names[:10])}"
    )


def _protocol(api: str, owner: str, base_url: str) -> Protocol:
    if api != "auto":
        return PROTOCOLS[api]
    for protocol in PROTOCOLS.values():
        if protocol.owner == owner:
            return protocol
    raise ConfigError(
        f"{base_url} does not say what kind of server it is (owned_by {one_line(owner)!r:.60}); "
        f"pass api={', api='.join(PROTOCOLS)}"
    )


def _short(value: object) -> Any:
    """A value from outside, of a kind and a size that belongs into `run.json`."""
    if isinstance(value, (bool, int, float)):
        return value
    return one_line(value)[:_LONGEST_NAME]


async def probe_answer(client: ServerClient, facts: ServerFacts, *, chat: bool) -> ServedAnswer:
    """A short answer, to see whether and what the server counts.

    Raises:
        ConfigError: If it gives none.
    """
    messages = [{"role": "user", "content": _PROBE_TEXT}]
    request = ServedRequest(
        model=facts.model,
        prompt=messages if chat else _PROBE_TEXT,
        max_new_tokens=_PROBE_TOKENS,
    )
    try:
        return await client.post(
            facts.protocol.path(request),
            facts.protocol.body(request),
            lambda: ServedAnswer(facts.protocol, _PROBE_TOKENS),
        )
    except ServedRequestError as error:
        raise ConfigError(
            f"{client.connection.base_url} gave no answer to a request for {_PROBE_TOKENS} tokens: "
            f"{error}"
        ) from None
