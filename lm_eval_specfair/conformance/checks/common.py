"""Requests, scripts of greedy texts, and the tests of sampled distributions that checks share."""

import functools
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from lm_eval_specfair.conformance import reference
from lm_eval_specfair.conformance.adapter import Answer, AnswerCounts, Ask, AskSettings, Drafting
from lm_eval_specfair.conformance.reference import greedy_text
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.conformance.tiny_models import VOCAB_SIZE, llama
from lm_eval_specfair.conformance.trial import Trial

EOS = 0
Prompt = tuple[int, ...]
ALPHA = 1e-5  # chance of a false alarm of one test of a distribution
TOY_VOCAB, TOY_LENGTH = 5, 3
TOY_PROMPTS: tuple[Prompt, ...] = ((1, 2, 3, 1, 2), (4, 4))


def prompts_of(number: int, longest: int, seed: int, vocab_size: int = VOCAB_SIZE) -> list[Prompt]:
    """Distinct random prompts of 1 to `longest` tokens, without EOS."""
    prompts = reference.random_prompts(number, longest=longest, vocab_size=vocab_size, seed=seed)
    return [tuple(prompt) for prompt in prompts]


def asks(
    prompts: Sequence[Prompt], lengths: int | Sequence[int], *, eos: Sequence[int] = ()
) -> list[Ask]:
    """One request per prompt, named by its place."""
    if isinstance(lengths, int):
        lengths = [lengths] * len(prompts)
    return [
        Ask(name=f"r{place}", prompt=prompt, max_new_tokens=length, eos_token_ids=tuple(eos))
        for place, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def script(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    length: int,
    patterns: Sequence[Sequence[int]] | None = None,
    *,
    wrong: int | None = None,
    resumes: bool = False,
) -> Script:
    """A script of the model's own greedy texts; `patterns` are its `num_right`, one per prompt."""
    return Script(
        answers={prompt: greedy_text(model, prompt, length) for prompt in prompts},
        num_right={} if patterns is None else dict(zip(prompts, patterns, strict=True)),
        vocab_size=int(model.config.get_text_config().vocab_size),
        wrong=wrong,
        resumes=resumes,
    )


@functools.cache
def known_text(model: PreTrainedModel, length: int) -> tuple[Prompt, tuple[int, ...]]:
    """A prompt whose greedy continuation repeats no token, so any of them can serve as EOS."""
    for number in range(500):
        prompt = (5 + number % 200, 6 + number // 200)
        answer = greedy_text(model, prompt, length)
        if len({*answer, *prompt}) == length + 2 and EOS not in answer:
            return prompt, answer
    raise RuntimeError(f"no prompt of this model is followed by {length} different tokens")


@functools.cache
def toy_pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A target and a drafter of five tokens that disagree."""
    shape = {"hidden_size": 16, "num_attention_heads": 1, "head_dim": 32}
    shape |= {"layers": 1, "vocab_size": TOY_VOCAB, "max_position_embeddings": 32}
    return llama(3, **shape), llama(4, **shape)


def check_law(trial: Trial, drafter: Drafting, what: str, **settings: float | int | None) -> None:
    """Draw texts of three tokens; their joint law must be the toy target's, enumerated.

    Pearson's test for each prompt, with `AskSettings` of these values (temperature 1 unless given).
    """
    target = toy_pair()[0]
    number = trial.backend.num_samples
    common = {"num_speculative_tokens": 2, "temperature": 1.0, "batch_size": 1_000}
    asked = AskSettings(**(common | settings))  # type: ignore[arg-type]
    requests = asks([TOY_PROMPTS[i % len(TOY_PROMPTS)] for i in range(number)], TOY_LENGTH)
    answers = trial.decode(target, drafter, requests, asked)
    smallest = 1.0
    for prompt in TOY_PROMPTS:
        observed = torch.zeros((TOY_VOCAB,) * TOY_LENGTH, dtype=torch.float64)
        for request, answer in zip(requests, answers, strict=True):
            if request.prompt == prompt and len(answer.token_ids) == TOY_LENGTH:
                observed[tuple(answer.token_ids)] += 1
        trial.expect(
            int(observed.sum()) == sum(request.prompt == prompt for request in requests),
            f"{what}: texts are not {TOY_LENGTH} tokens long",
        )
        processors = (asked.temperature, asked.top_k, asked.top_p)
        law = reference.text_law(target, prompt, TOY_LENGTH, *processors)
        smallest = min(smallest, reference.goodness_of_fit(observed, law))
    trial.expect(
        smallest > ALPHA, f"{what}: texts do not follow the target's law (p-value {smallest:.2g})"
    )
    trial.notes.append(f"{what}: {number} texts, smallest p-value {smallest:.2g}")
    check_not_vacuous(trial, answers, what)


def check_not_vacuous(trial: Trial, answers: Sequence[Answer], what: str) -> None:
    """Where tokens are counted, some drafts must have been kept and some rejected."""
    accepted, drafted = totals(answers)
    if any(answer.counts for answer in answers):
        trial.expect(
            0 < accepted < drafted,
            f"{what}: {accepted} of {drafted} drafts kept, which shows nothing",
        )


def totals(answers: Sequence[Answer]) -> tuple[int, int]:
    """Accepted and drafted tokens of all answers that are counted."""
    counts = [answer.counts for answer in answers if answer.counts is not None]
    return sum(sum(x.accepted) for x in counts), sum(sum(x.drafted) for x in counts)


def counted(
    requests: Sequence[Ask], answers: Sequence[Answer]
) -> Iterator[tuple[Ask, Answer, AnswerCounts]]:
    """Requests and their answers where the decoder counts."""
    for ask, answer in zip(requests, answers, strict=True):
        if answer.counts is not None:
            yield ask, answer, answer.counts
