"""Equipment for the tests of the decoding engine: requests, runs, references made independently."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Draft, Drafter, ModelDrafter
from lm_eval_specfair.decoding.engine import Completion, Engine, Request
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping

CPU = torch.device("cpu")
NO_EOS = 1_000_000  # an id that no model has


def request(
    prompt: list[int],
    max_new_tokens: int,
    name: str = "",
    *,
    draft_length: int | None = None,
    **stopping,
) -> Request:
    return Request(
        request_id=name or repr(prompt),
        prompt=prompt,
        stopping=Stopping(max_new_tokens=max_new_tokens, **stopping),
        num_speculative_tokens=draft_length,
    )


def random_prompts(number: int, *, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Distinct prompts of 1 to `longest` tokens, without token 0 (the tests' EOS)."""
    chance = random.Random(seed)
    prompts: dict[tuple[int, ...], None] = {}
    while len(prompts) < number:
        length = chance.randint(1, longest)
        prompts[tuple(chance.randrange(1, vocab_size) for _ in range(length))] = None
    return [list(prompt) for prompt in prompts]


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
    return sum(sum(each.statistics.accepted_per_step) for each in completions)


def rejections(completions: Sequence[Completion]) -> int:
    return sum(each.statistics.num_examined for each in completions) - accepted(completions)


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


@torch.no_grad()
def plain_scores(model, tokens: list[int]) -> Tensor:
    """Scores behind each token, by one pass without a cache."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


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


def processed(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities after temperature, top-k and top-p, for one position, from the definitions."""
    probabilities = torch.softmax(scores.double() / temperature, -1)
    order = probabilities.argsort(descending=True)
    kept = order[: top_k or len(order)]
    shares = probabilities[kept] / probabilities[kept].sum()
    if top_p is not None:
        # The shortest list of likeliest tokens that holds at least this mass.
        needed = int((shares.cumsum(0) < top_p).sum()) + 1
        kept = kept[:needed]
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result


@dataclass(slots=True)
class _Script:
    prompt: list[int]
    step: int = 0


class ScriptedDrafter:
    """Drafts the right continuation (known beforehand) up to a chosen place in each step.

    `continuations` gives each prompt's right tokens; `num_right` how many tokens are right in a
    prompt's first, second, ... step (over and over), None for all. The token behind them is wrong.
    """

    def __init__(
        self,
        continuations: dict[tuple[int, ...], list[int]],
        num_right: Sequence[int] | None = None,
        vocab_size: int = 260,
    ) -> None:
        self.max_length = 1 << 30
        self._continuations = continuations
        self._num_right = num_right
        self._vocab_size = vocab_size
        self._scripts: dict[int, _Script] = {}

    def admit(self, rows: list[int], prompts: list[list[int]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._scripts[row] = _Script(list(prompt))

    def propose(
        self,
        histories: Sequence[list[int]],
        wanted: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        width = max(wanted)
        tokens = torch.zeros((len(histories), width), dtype=torch.long)
        for row, (history, number) in enumerate(zip(histories, wanted, strict=True)):
            script = self._scripts[row]
            done = len(history) - len(script.prompt)
            assert history[: len(script.prompt)] == script.prompt  # rows were moved as told
            right = self._continuations[tuple(script.prompt)][done : done + number]
            if self._num_right is not None:
                first_wrong = self._num_right[script.step % len(self._num_right)]
                right = [
                    token if place < first_wrong else (token + 1) % self._vocab_size
                    for place, token in enumerate(right)
                ]
            tokens[row, :number] = torch.tensor(right, dtype=torch.long)
            script.step += 1
        return Draft(tokens, list(wanted), None)

    def rolled_back(self, num_accepted: list[int]) -> None:
        pass

    def move(self, source: int, destination: int) -> None:
        self._scripts[destination] = self._scripts[source]

    def reset(self) -> None:
        self._scripts = {}
