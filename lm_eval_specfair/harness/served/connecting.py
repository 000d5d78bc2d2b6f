"""The servers of a run, found and examined before anything is decoded."""

import logging
from dataclasses import dataclass

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.served.server_arguments import ServerRunArguments
from lm_eval_specfair.serving.answer import ServedAnswer
from lm_eval_specfair.serving.client import Connection, ServerClient
from lm_eval_specfair.serving.event_loop import LoopThread
from lm_eval_specfair.serving.probe import ServerFacts, probe_answer, server_facts
from lm_eval_specfair.serving.server_decoder import Server

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The servers of a run.

    Attributes:
        loop: Where their clients live.
        flags: Settings of the server that change what the metrics mean, by kind.
        convention: Key of `CONVENTIONS`.
        num_speculative_tokens: The most that the server drafts in a step; None where it does not
            say.
    """

    loop: LoopThread
    server: Server
    baseline: Server | None
    flags: dict[str, list[str]]
    convention: str
    num_speculative_tokens: int | None


def connected(given: ServerRunArguments) -> Connected:
    """Find the servers; nothing stays open where one is refused.

    Raises:
        ConfigError: If one cannot be reached or used, or does not count what it drafts.
    """
    loop = LoopThread()
    found: list[Server] = []
    try:
        server = loop.run(_found(given.connection, given.api, given.model))
        found.append(server)
        answer = loop.run(probe_answer(server.client, server.facts, chat=given.endpoint == "chat"))
        if given.drafts and given.counts == "requests":
            _refuse_uncounted(given, server.facts, answer)
        baseline = None
        if given.baseline_connection is not None:
            baseline = loop.run(_found(given.baseline_connection, given.api, given.baseline_model))
            found.append(baseline)
            plain = loop.run(
                probe_answer(baseline.client, baseline.facts, chat=given.endpoint == "chat")
            )
            if plain.counts is not None and plain.counts.num_draft_tokens:
                raise ConfigError(
                    f"baseline_url {given.baseline_connection.base_url} drafts as well "
                    f"({plain.counts.num_draft_tokens} tokens for a short answer); name a server "
                    "of the same model without a drafter"
                )
    except BaseException:
        for each in found:
            loop.run(each.client.close())
        loop.close()
        raise
    flags: dict[str, list[str]] = {}
    if server.facts.simulated:
        flags["lossy"] = server.facts.simulated
        logger.warning(
            "the server pretends its acceptance (%s): its counts say nothing about texts",
            ", ".join(server.facts.simulated),
        )
    convention = "metrics" if given.counts == "metrics" else server.facts.protocol.name
    return Connected(
        loop=loop,
        server=server,
        baseline=baseline,
        flags=flags,
        convention=convention,
        num_speculative_tokens=answer.counts.num_spec_tokens if answer.counts else None,
    )


async def _found(connection: Connection, api: str, model: str | None) -> Server:
    client = ServerClient(connection)
    try:
        return Server(client=client, facts=await server_facts(client, api=api, model=model))
    except BaseException:
        await client.close()
        raise


def _refuse_uncounted(given: ServerRunArguments, facts: ServerFacts, answer: ServedAnswer) -> None:
    """Refuse a server that does not count, or not what was said; warn where it drafted nothing."""
    if answer.counts is None:
        raise ConfigError(
            f"the server gives no counts of what it drafts: start it with "
            f"{facts.protocol.counts_switch}; or pass counts=metrics (differences of its /metrics, "
            "one request at a time), or drafter=none if it has no drafter"
        )
    said = answer.counts.num_spec_tokens
    if said and given.num_speculative_tokens not in (0, said):
        raise ConfigError(
            f"num_speculative_tokens={given.num_speculative_tokens}, but the server drafts {said} "
            "tokens a step; leave it out, or start the server with yours"
        )
    if not answer.counts.num_draft_tokens:
        logger.warning(
            "the server drafted nothing for a short answer: if it should draft, start it with %s",
            facts.protocol.counts_switch,
        )
