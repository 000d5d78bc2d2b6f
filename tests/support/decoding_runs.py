"""Equipment for the tests of the decoding engine: requests, runs, references made independently."""

import copy
from collections.abc import Sequence

import torch

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.backends.specfair import ScriptedDrafter as _ScriptedDrafter
from lm_eval_specfair.conformance.reference import plain_scores, processed, random_prompts
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping

__all__ = ["plain_scores", "processed", "random_prompts"]  # and what is defined here

CPU = torch.device("cpu")
NO_EOS = 1_000_000  # an id that no model has


def request(
    prompt: list[int],
    max_new_tokens: int,
    name: str = "",
    *,
    draft_length: int | None = None,
    drafter: str | None = None,
    drafter_temperature: float | None = None,
    **stopping,
) -> Request:
    return Request(
        request_id=name or repr(prompt),
        prompt=prompt,
        stopping=Stopping(max_new_tokens=max_new_tokens, **stopping),
        num_speculative_tokens=draft_length,
        drafter=drafter,
        drafter_temperature=drafter_temperature,
    )


def model_drafter(model, vocab_size: int) -> ModelDrafter:
    return ModelDrafter(CausalModel(model, role="drafter"), vocab_size=vocab_size)


def decode(
    target,
    drafter: Drafter,
    requests: Sequence[Request],
    *,
    batch_size: int = 8,
    **config,
) -> list[Completion]:
    """Completions in the order of the requests; `target` is a model or a `CausalModel`."""
    wrapped = target if isinstance(target, CausalModel) else CausalModel(target)
    engine = Engine(wrapped, DecodeConfig(**config))
    done = {
        completion.request.request_id: completion
        for completion in engine.decode(requests, drafter, batch_size=batch_size)
    }
    assert len(done) == len(requests)
    return [done[each.request_id] for each in requests]


def accepted(completions: Sequence[Completion]) -> int:
    return sum(sum(each.counters.accepted_per_step) for each in completions)


def rejections(completions: Sequence[Completion]) -> int:
    return sum(each.counters.num_examined for each in completions) - accepted(completions)


def transformers_greedy(
    model, prompt: list[int], max_new_tokens: int, eos_token_id: int = NO_EOS
) -> list[int]:
    """What `model.generate` of transformers continues a prompt with."""
    tokens = torch.tensor([prompt])
    output = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=0,
        eos_token_id=eos_token_id,
    )
    return output[0, len(prompt) :].tolist()


class TieJudge:
    """Excuses a greedy mismatch only where an fp64 pass over the same prefix certifies a tie."""

    NOISE = 1e-4  # of fp32 scores of these models, several times what was seen

    def __init__(self, model) -> None:
        self._exact = copy.deepcopy(model).double()
        self.num_ties = 0

    def check(self, prompt: list[int], expected: list[int], got: list[int]) -> None:
        if got == expected:
            return
        pairs = zip(expected, got, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        assert place is not None, f"one is a beginning of the other: {expected} and {got}"
        scores = plain_scores(self._exact, prompt + expected[:place])[-1]
        gap = float((scores[expected[place]] - scores[got[place]]).abs())
        assert gap < self.NOISE, f"token {place} of {prompt}: {gap:.3g} apart in fp64"
        self.num_ties += 1


def ScriptedDrafter(
    continuations: dict[tuple[int, ...], list[int]],
    num_right: Sequence[int] | None = None,
    vocab_size: int = 260,
) -> _ScriptedDrafter:
    """Drafts the right continuation (known beforehand) up to a chosen place in each step.

    `continuations` gives each prompt's right tokens; `num_right` how many tokens are right in a
    prompt's first, second, ... step (over and over), None for all. The token behind them is wrong.
    """
    patterns = {} if num_right is None else dict.fromkeys(continuations, num_right)
    script = Script(answers=continuations, num_right=patterns, vocab_size=vocab_size)
    return _ScriptedDrafter(script)
