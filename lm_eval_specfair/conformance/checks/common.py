"""What checks share: requests, scripted continuations, the toy pair for tests of distributions."""

import functools
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import Ask, Drafting, Settings
from lm_eval_specfair.conformance.reference import goodness_of_fit, greedy_text, text_law
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.conformance.trial import Trial

EOS = 0
Prompt = tuple[int, ...]
# Chance of a false alarm of one test of a distribution.
ALPHA = 1e-5
TOY_VOCAB, TOY_LENGTH = 5, 3
TOY_PROMPTS: tuple[Prompt, ...] = ((1, 2, 3, 1, 2), (4, 4))


def asks(
    prompts: Sequence[Prompt],
    lengths: int | Sequence[int],
    *,
    eos: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
) -> list[Ask]:
    """One request a prompt, named by its place."""
    if isinstance(lengths, int):
        lengths = [lengths] * len(prompts)
    return [
        Ask(
            name=f"r{place}",
            prompt=prompt,
            max_new_tokens=length,
            eos_token_ids=tuple(eos),
            stop_strings=tuple(stop_strings),
        )
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
    """A script of the model's own greedy texts, with a pattern of right drafts a prompt.

    Args:
        model: The target.
        prompts: The requests' prompts.
        length: Tokens that are asked for at most.
        patterns: Drafts that are right in each step, a pattern a prompt; None for all.
        wrong: Token drafted where it errs.
        resumes: Whether drafts behind an error are right again.
    """
    return Script(
        answers={prompt: greedy_text(model, prompt, length) for prompt in prompts},
        num_right={} if patterns is None else dict(zip(prompts, patterns, strict=True)),
        vocab_size=int(model.config.get_text_config().vocab_size),
        wrong=wrong,
        resumes=resumes,
    )


@functools.cache
def known_text(model: PreTrainedModel, length: int) -> tuple[Prompt, tuple[int, ...]]:
    """A prompt whose greedy continuation has no token twice, so any of them can serve as EOS.

    Raises:
        RuntimeError: If none of the first 500 prompts has one.
    """
    for number in range(500):
        prompt = (5 + number % 200, 6 + number // 200)
        answer = greedy_text(model, prompt, length)
        if len({*answer, *prompt}) == length + 2 and EOS not in answer:
            return prompt, answer
    raise RuntimeError(f"no prompt of this model is followed by {length} different tokens")


@functools.cache
def toy_pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A target and a drafter of five tokens that disagree."""
    shape = {
        "hidden_size": 16,
        "num_attention_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 32,
    }
    return (
        llama(3, layers=1, vocab_size=TOY_VOCAB, **shape),
        llama(4, layers=1, vocab_size=TOY_VOCAB, **shape),
    )


def check_law(trial: Trial, drafter: Drafting, settings: Settings, what: str) -> None:
    """Draw texts of three tokens; their joint law must be the target's, enumerated.

    Pearson's test, a prompt each. Texts that the law rules out fail it at once.

    Args:
        trial: Where to decode.
        drafter: For the toy target.
        settings: With a temperature above 0.
        what: Words for the report.
    """
    target = toy_pair()[0]
    number = trial.backend.num_samples
    requests = asks([TOY_PROMPTS[i % len(TOY_PROMPTS)] for i in range(number)], TOY_LENGTH)
    answers = trial.decode(target, drafter, requests, settings)
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
        law = text_law(
            target, prompt, TOY_LENGTH, settings.temperature, settings.top_k, settings.top_p
        )
        smallest = min(smallest, goodness_of_fit(observed, law))
    trial.expect(
        smallest > ALPHA, f"{what}: texts do not follow the target's law (p-value {smallest:.2g})"
    )
    trial.notes.append(f"{what}: {number} texts, smallest p-value {smallest:.2g}")
    check_not_vacuous(trial, [answer.counts for answer in answers], what)


def check_not_vacuous(trial: Trial, counts: Sequence[object], what: str) -> None:
    """Where tokens are counted, some drafts must have been kept and some rejected."""
    from lm_eval_specfair.conformance.adapter import Counts

    known = [each for each in counts if isinstance(each, Counts)]
    if not known:
        return
    accepted = sum(sum(each.accepted) for each in known)
    drafted = sum(sum(each.drafted) for each in known)
    trial.expect(
        0 < accepted < drafted, f"{what}: {accepted} of {drafted} drafts kept, which shows nothing"
    )
