"""Log-likelihoods from a server: the log-probabilities of a prompt's last tokens, on record."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lm_eval.api.instance import Instance

from lm_eval_specfair.decoding.completion import failure_reason
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.requests import group_fields
from lm_eval_specfair.records import Record
from lm_eval_specfair.serving.client import ServedRequestError, WholeBody
from lm_eval_specfair.serving.event_loop import LoopThread
from lm_eval_specfair.serving.protocols import PROTOCOLS, BrokenAnswerError
from lm_eval_specfair.serving.server_decoder import Server


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A continuation to score, or what came of it.

    Attributes:
        place: Of its answer among lm-eval's.
        name: Its request_id; None for padding.
        tokens: Context and continuation.
        num_context: Tokens of the context.
        scores: Nats of each token of the continuation, and whether it is the likeliest.
        failure: Why there are none.
    """

    place: int
    name: str | None
    instance: Instance
    tokens: list[int]
    num_context: int
    scores: Sequence[tuple[float, bool]] = ()
    failure: str | None = None

    @property
    def result(self) -> tuple[float, bool]:
        """lm-eval's: log-likelihood in nats, and whether greedy decoding would say so."""
        if self.failure is not None:
            return -math.inf, False
        return sum(nats for nats, _ in self.scores), all(best for _, best in self.scores)

    def record(self) -> Record:
        """What is known of the target on this text; a server does not score with its drafter."""
        log_likelihood, is_greedy = self.result
        is_known = self.failure is None
        return Record(
            request_id=self.name or "",
            task=self.instance.task_name or "",
            doc_id=int(self.instance.doc_id or 0),
            request_type="loglikelihood",
            group_fields=group_fields(self.instance.doc),
            num_prompt_tokens=self.num_context,
            target_nll_sum=-log_likelihood if is_known else None,
            num_scored_tokens=len(self.tokens) - self.num_context,
            num_scored_bytes=len(self.instance.args[-1].encode("utf-8", errors="replace")),
            is_greedy=is_greedy if is_known else None,
            is_right_choice=getattr(self.instance, "is_right_choice", None),
            failure=self.failure,
        )


def refuse_unscored(server: Server) -> None:
    """Refuse a server that gives no log-probabilities of prompts."""
    name = server.facts.protocol.name
    if not server.facts.protocol.scores_prompts:
        able = ", ".join(each.name for each in PROTOCOLS.values() if each.scores_prompts)
        raise ConfigError(
            f"this task scores given texts, and api={name} gives no log-probabilities of them "
            f"(these do: {able}); ask one of these, choose tasks that generate, or use backend=hf"
        )


def scored_texts(
    loop: LoopThread, server: Server, texts: Sequence[ScoredText], *, max_length: int | None
) -> Iterator[ScoredText]:
    """The texts with their scores, as these come.

    Raises:
        ConfigError: If the server is gone.
    """
    protocol = server.facts.protocol

    async def score(text: ScoredText) -> ScoredText:
        # One token is generated after them, since servers do not answer with none.
        dropped = 0 if max_length is None else max(0, len(text.tokens) - (max_length - 1))
        tokens, first = text.tokens[dropped:], max(1, text.num_context - dropped)
        path, body = protocol.score_request(server.facts.model, tokens, first)
        scores: Sequence[tuple[float, bool]] = ()
        failure = None
        try:
            answer = await server.client.post(path, body, WholeBody)
            scores = protocol.scores(answer.body, tokens, first)
        except (ServedRequestError, BrokenAnswerError) as error:
            failure = failure_reason(error)
        return ScoredText(
            text.place, text.name, text.instance, text.tokens, text.num_context, scores, failure
        )

    yield from loop.each(score, texts, at_once=server.client.connection.num_concurrent)
