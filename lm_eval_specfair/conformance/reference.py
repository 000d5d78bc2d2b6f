"""Full fp64 passes and enumerated distributions: no cache, no drafter, no acceptance rule."""

import copy
import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import PreTrainedModel

# How much larger than the error of a plain pass (against fp64) the gap of two scores may be to
# count as a tie: both scores err, and a block of another width rounds a little worse.
TIE_FACTOR = 4.0


def random_prompts(number: int, *, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Distinct prompts of 1 to `longest` tokens, without token 0 (the suite's EOS)."""
    chance = random.Random(seed)
    prompts: dict[tuple[int, ...], None] = {}
    while len(prompts) < number:
        length = chance.randint(1, longest)
        prompts[tuple(chance.randrange(1, vocab_size) for _ in range(length))] = None
    return [list(prompt) for prompt in prompts]


@torch.no_grad()
def plain_scores(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """Scores after each token, by one pass without a cache; shape (tokens, vocab)."""
    inputs = torch.tensor([list(tokens)], device=model.device)
    scores: Tensor = model(input_ids=inputs, use_cache=False).logits[0]
    return scores


@functools.lru_cache(maxsize=64)
def in_fp64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that computes in fp64."""
    exact = copy.deepcopy(model).double()
    if hasattr(exact, "set_experts_implementation"):
        exact.set_experts_implementation("eager")  # the default knows no fp64
    return exact


@functools.cache
def greedy_text(model: PreTrainedModel, prompt: tuple[int, ...], length: int) -> tuple[int, ...]:
    """The `length` most likely next tokens, one by one, by full passes in fp64."""
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(int(plain_scores(in_fp64(model), tokens)[-1].argmax()))
    return tuple(tokens[len(prompt) :])


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of a full fp64 pass over a greedy text."""

    num_ties: int  # tokens not the most likely, but within the rounding of the model's type
    error: str | None  # what is wrong with the text


def judge_greedy(
    model: PreTrainedModel,
    prompt: Sequence[int],
    text: Sequence[int],
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int] = (),
) -> Judgement:
    """Whether each token of a text is the most likely after those before it, and the end is right.

    A token that is not is a certified tie where its fp64 score is nearer to the best than
    `TIE_FACTOR` times the largest error that the model's own type makes in this very pass.
    """
    tokens = [*prompt, *text]
    if not text:
        return Judgement(0, "no tokens came out")
    if not 0 <= min(text) <= max(text) < int(model.config.get_text_config().vocab_size):
        return Judgement(0, "a token is outside the vocabulary")
    exact = plain_scores(in_fp64(model), tokens[:-1])[len(prompt) - 1 :]
    chosen = exact.gather(1, torch.tensor(text, device=exact.device)[:, None])[:, 0]
    gaps = exact.max(-1).values - chosen
    ties = 0
    if bool((gaps > 0).any()):
        rounded = plain_scores(model, tokens[:-1])[len(prompt) - 1 :].double()
        noise = TIE_FACTOR * float((rounded - exact).abs().max())
        wrong = (gaps > noise).nonzero()
        if len(wrong):
            place = int(wrong[0])
            return Judgement(
                0,
                f"token {place} after a prompt of {len(prompt)} is {text[place]}, not "
                f"{int(exact[place].argmax())}: {float(gaps[place]):.3g} apart in fp64",
            )
        ties = int((gaps > 0).sum())
    ends = [place for place, token in enumerate(text) if token in set(eos_token_ids)]
    if ends and ends[0] + 1 < len(text):
        return Judgement(ties, f"{len(text) - 1 - ends[0]} tokens follow the one that ends it")
    if len(text) > max_new_tokens:
        return Judgement(ties, f"{len(text)} tokens, {max_new_tokens} were asked for")
    if not ends and len(text) < max_new_tokens:
        return Judgement(ties, f"ends after {len(text)} of {max_new_tokens} tokens, for no reason")
    return Judgement(ties, None)


def processed(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities after temperature, top-k and top-p, for one position, from the definitions."""
    probabilities = torch.softmax(scores.double() / temperature, -1)
    order = probabilities.argsort(descending=True)
    kept = order[: top_k or len(order)]
    shares = probabilities[kept] / probabilities[kept].sum()
    if top_p is not None:
        # The shortest list of most likely tokens that holds at least this mass.
        kept = kept[: int((shares.cumsum(0) < top_p).sum()) + 1]
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result


@functools.cache
def text_law(
    model: PreTrainedModel,
    prompt: tuple[int, ...],
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Tensor:
    """The target's probability of every text of `length` tokens, shape (vocab,) * length."""
    vocab = int(model.config.vocab_size)
    law = torch.ones((vocab,) * length, dtype=torch.float64)
    for place in range(length):
        for text in itertools.product(range(vocab), repeat=place):
            scores = plain_scores(model, [*prompt, *text])[-1]
            next_token = processed(scores, temperature, top_k, top_p)
            shape = [vocab] + [1] * (length - place - 1)
            law[text] = law[text] * next_token.reshape(shape)
    return law


def goodness_of_fit(observed: Tensor, law: Tensor) -> float:
    """p-value of Pearson's test of counts, rare texts pooled; 0 if the law rules one out."""
    if float(observed[law == 0].sum()) > 0:
        return 0.0
    expected = law * observed.sum()
    rare = (expected < 5) & (law > 0)
    common = expected >= 5
    counts, means = observed[common].tolist(), expected[common].tolist()
    if expected[rare].sum() > 0:
        counts.append(float(observed[rare].sum()))
        means.append(float(expected[rare].sum()))
    return float(chisquare(counts, means, sum_check=False).pvalue)
