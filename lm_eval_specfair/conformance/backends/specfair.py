"""This package's own engine behind the suite's protocol."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair import __version__
from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Answer,
    Ask,
    Capability,
    Counts,
    Drafting,
    PairCheck,
    RefusedError,
    Settings,
)
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.decoding import acceptance
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import Draft, Drafter, ModelDrafter, NoDrafter, PromptLookup
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError


def spelled(tokens: list[int]) -> str:
    """Token ids as text for stop strings: `<5><17>`."""
    return "".join(f"<{token}>" for token in tokens)


@dataclass(slots=True)
class _Part:
    """A row's place in its script."""

    prompt: list[int]
    step: int = 0


class ScriptedDrafter:
    """Plays a script, row by row."""

    def __init__(self, script: Script) -> None:
        """Draft what the script says."""
        self.max_length = 1 << 30
        self._script = script
        self._parts: dict[int, _Part] = {}

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        """Start rows at their scripts' beginnings."""
        for row, prompt in zip(rows, prompts, strict=True):
            self._parts[row] = _Part(list(prompt))

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """The script's drafts."""
        tokens = torch.zeros((len(histories), max(wanted)), dtype=torch.long)
        numbers = []
        for row, (history, number) in enumerate(zip(histories, wanted, strict=True)):
            part = self._parts[row]
            if history[: len(part.prompt)] != part.prompt:
                raise RuntimeError(f"row {row} was moved without telling its drafter")
            kept = len(history) - len(part.prompt)
            drafted = self._script.draft(part.prompt, kept, number, part.step)
            tokens[row, : len(drafted)] = torch.tensor(drafted, dtype=torch.long)
            numbers.append(len(drafted))
            part.step += 1
        return Draft(tokens, numbers, None)

    def rolled_back(self, num_accepted: list[int]) -> None:
        """Nothing to do: a script counts steps, not tokens."""

    def move(self, source: int, destination: int) -> None:
        """Take the script's place along."""
        self._parts[destination] = self._parts[source]

    def reset(self) -> None:
        """Forget all rows."""
        self._parts = {}


class SpecfairBackend:
    """`lm_eval_specfair.decoding`."""

    name = "specfair"
    num_samples = 3_000
    capabilities = frozenset(Capability) - {
        Capability.REPETITION_PENALTY,
        Capability.TOKENIZERS,
        Capability.PREFILL_TOKEN,
    }

    def __init__(self, pair_check: PairCheck | None = None) -> None:
        """Decode with the engine.

        Args:
            pair_check: What the harness asks about a pair's tokenizers before it decodes; without
                it the checks of tokenizers do not apply, since the engine sees token ids only.
        """
        self._pair_check = pair_check
        if pair_check is not None:
            self.capabilities = self.capabilities | {Capability.TOKENIZERS}

    def versions(self) -> dict[str, str]:
        """Of this package and those that compute."""
        return {
            "lm_eval_specfair": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: Settings
    ) -> list[Answer]:
        """Decode requests together.

        Raises:
            RefusedError: Where a model is refused when it is wrapped.
        """
        wrapped = _wrapped(target)
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
        drafting = self._drafter(drafter, wrapped)
        done: dict[str, Completion] = {}
        for completion in Engine(wrapped, config).decode(
            requests, drafting, batch_size=settings.batch_size
        ):
            done[completion.request.request_id] = completion
        return [_answer(done[ask.name]) for ask in asks]

    def _drafter(self, drafter: Drafting, target: CausalModel) -> Drafter:
        if drafter is None:
            return NoDrafter(target.device)
        if isinstance(drafter, Script):
            return ScriptedDrafter(drafter)
        if drafter == PROMPT_LOOKUP:
            return PromptLookup(target.device)
        return ModelDrafter(_wrapped(drafter, "drafter"), vocab_size=target.vocab_size)

    def rule(
        self,
        draft_tokens: Tensor,
        draft_probs: Tensor | None,
        target_probs: Tensor,
        accept_uniforms: Tensor,
        next_uniforms: Tensor,
    ) -> acceptance.Verification:
        """`accept_sampled`."""
        rows, width = draft_tokens.shape
        return acceptance.accept_sampled(
            draft_tokens,
            torch.full((rows,), width),
            None if draft_probs is None else draft_probs.log(),
            target_probs.log(),
            accept_uniforms,
            next_uniforms,
        )

    def decode_pair(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
        asks: Sequence[Ask],
        settings: Settings,
    ) -> list[Answer]:
        """Ask the harness about the tokenizers, then decode.

        Raises:
            RefusedError: Where they differ.
        """
        if self._pair_check is None:
            raise RefusedError("the engine sees token ids only")
        try:
            self._pair_check(*tokenizers)
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        return self.decode(target, drafter, asks, settings)


@functools.lru_cache(maxsize=64)
def _wrapped(model: PreTrainedModel | str, role: str = "target") -> CausalModel:
    """Wrapping costs a trial, so it is done once a model and role."""
    try:
        return CausalModel(model, role=role)
    except ConfigError as error:
        raise RefusedError(str(error)) from error


def _answer(done: Completion) -> Answer:
    counted = done.counters
    return Answer(
        token_ids=done.token_ids,
        finish_reason=done.finish_reason,
        counts=Counts(
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
