"""The adapter of this package's own engine."""

import functools
from collections.abc import Sequence

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair import __version__
from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Answer,
    AnswerCounts,
    Ask,
    AskSettings,
    Backend,
    Capability,
    Drafting,
    RefusedError,
    TokenizerPair,
)
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.decoding import acceptance, loading
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import Draft, Drafter, ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.decoding.vocabularies.choice import foreign_drafter, foreign_vocabulary
from lm_eval_specfair.errors import ConfigError


def spelled(tokens: list[int]) -> str:
    """Token ids as text for stop strings: `<5><17>`."""
    return "".join(f"<{token}>" for token in tokens)


class ScriptedDrafter(Drafter):
    """Plays a script, row by row."""

    def __init__(self, script: Script) -> None:
        self.max_length = 1 << 30
        self._script = script
        self._rows: dict[int, tuple[list[int], int]] = {}  # prompt, and steps so far

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._rows[row] = list(prompt), 0

    def propose(self, histories: Sequence[list[int]], lengths: list[int], *_: object) -> Draft:
        tokens = torch.zeros((len(histories), max(lengths)), dtype=torch.long)
        numbers = []
        for row, (history, length) in enumerate(zip(histories, lengths, strict=True)):
            prompt, step = self._rows[row]
            if history[: len(prompt)] != prompt:
                raise RuntimeError(f"row {row} was moved without telling its drafter")
            kept = len(history) - len(prompt)
            drafted = self._script.draft(prompt, kept, length, step)
            tokens[row, : len(drafted)] = torch.tensor(drafted, dtype=torch.long)
            numbers.append(len(drafted))
            self._rows[row] = prompt, step + 1
        return Draft(tokens, numbers, None)

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Nothing to do: a script counts steps, not tokens."""

    def move(self, source: int, destination: int) -> None:
        self._rows[destination] = self._rows[source]

    def reset(self) -> None:
        self._rows.clear()


class SpecfairBackend(Backend):
    """`lm_eval_specfair.decoding`, with the harness' check of a pair's tokenizers."""

    name = "specfair"
    num_samples = 3_000
    capabilities = frozenset(Capability) - {Capability.REPETITION_PENALTY, Capability.PREFILL_TOKEN}

    def versions(self) -> dict[str, str]:
        return {
            "lm_eval_specfair": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        wrapped = wrapped_model(target)
        return self._decode(wrapped, _drafter(drafter, wrapped), asks, settings)

    def _decode(
        self, target: CausalModel, drafter: Drafter, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        config = DecodeConfig(
            num_speculative_tokens=settings.num_speculative_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
        )
        requests = [
            Request(
                request_id=ask.name,
                prompt=list(ask.prompt),
                stopping=Stopping(
                    max_new_tokens=ask.max_new_tokens,
                    eos_token_ids=frozenset(ask.eos_token_ids),
                    stop_strings=ask.stop_strings,
                    decode=spelled,
                ),
            )
            for ask in asks
        ]
        completions = Engine(target, config).decode(
            requests, drafter, batch_size=settings.batch_size
        )
        done = {completion.request.request_id: completion for completion in completions}
        return [_answer(done[ask.name]) for ask in asks]

    def rule(
        self, draft_tokens: Tensor, draft_probs: Tensor | None, target_probs: Tensor, *given: Tensor
    ) -> acceptance.Verification:
        rows, width = draft_tokens.shape
        q = None if draft_probs is None else draft_probs.log()
        return acceptance.accept_sampled(
            draft_tokens, torch.full((rows,), width), q, target_probs.log(), *given
        )

    def decode_pair(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        tokenizers: TokenizerPair,
        asks: Sequence[Ask],
        settings: AskSettings,
    ) -> list[Answer]:
        """Compare the tokenizers as the harness does, then decode."""
        if loading.tokenizer_difference(*tokenizers) is None:
            return self.decode(target, drafter, asks, settings)
        try:
            vocabulary = foreign_vocabulary(
                *tokenizers,
                "drafter",
                target_size=int(target.config.vocab_size),
                drafter_size=int(drafter.config.vocab_size),
            )
            drafting = foreign_drafter(wrapped_model(drafter, "drafter"), vocabulary, *tokenizers)
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        return self._decode(wrapped_model(target), drafting, asks, settings)


def _drafter(drafter: Drafting, target: CausalModel) -> Drafter:
    if drafter is None:
        return NoDrafter(target.device)
    if isinstance(drafter, Script):
        return ScriptedDrafter(drafter)
    if drafter == PROMPT_LOOKUP:
        return PromptLookup(target.device)
    return ModelDrafter(wrapped_model(drafter, "drafter"), vocab_size=target.vocab_size)


@functools.lru_cache(maxsize=64)
def wrapped_model(model: PreTrainedModel | str, role: str = "target") -> CausalModel:
    """Wrapping costs a trial, so it is done once per model and role."""
    try:
        return CausalModel(model, role=role)
    except ConfigError as error:
        raise RefusedError(str(error)) from error


def _answer(done: Completion) -> Answer:
    counted = done.counters
    return Answer(
        token_ids=done.token_ids,
        finish_reason=done.finish_reason,
        counts=AnswerCounts(
            drafted=counted.drafted_per_step,
            accepted=counted.accepted_per_step,
            examined=counted.num_examined,
        ),
        sums={
            "overlap": counted.overlap_sum,
            "kl": counted.kl_sum,
            "cross entropy": counted.cross_entropy_sum,
            "target entropy": counted.target_entropy_sum,
            "positions": counted.num_positions,
            "infinite": counted.num_infinite,
        },
    )
