"""A check of counts against the text: each step follows from the drafter and the finished text."""

import dataclasses

import torch
from transformers import PreTrainedModel

from lm_eval_specfair import steps
from lm_eval_specfair.conformance import reference
from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Answer, Ask, AskSettings, Capability
from lm_eval_specfair.conformance.checks.common import asks, counted, known_text, prompts_of
from lm_eval_specfair.conformance.trial import Trial, check

LENGTH, CAP = 12, 4


@check(30, "replay", "general", Capability.COUNTS)
def replay(trial: Trial) -> None:
    """Steps equal those that one pass of the drafter over the finished text tells."""
    model, near = models.target(), models.near_drafter()
    _compared(trial, near, asks(prompts_of(8, 9, seed=26), [1, 2, 3, 5, 6, 9, 13, 18]), "length")

    prompt, text = known_text(model, LENGTH)
    ends = [
        dataclasses.replace(asks([prompt], LENGTH, eos=[token])[0], name=f"e{place}")
        for place, token in enumerate(text)
    ]
    # The target's own steps: every draft is kept, so each place of a block is an end once.
    for drafter in (model, near):
        _compared(trial, drafter, ends, "EOS")
    if trial.can(Capability.STOP_STRINGS):
        stops = [
            dataclasses.replace(
                ask, name=f"s{place}", eos_token_ids=(), stop_strings=(f"<{token}>",)
            )
            for place, (ask, token) in enumerate(zip(ends, text, strict=True))
        ]
        for drafter in (model, near):
            _compared(trial, drafter, stops, "a stop string")
    short = models.llama(0, head_dim=32, max_position_embeddings=24)
    _compared(trial, short, asks(prompts_of(6, 16, seed=27), 20), "the drafter's context")


def _compared(trial: Trial, drafter: PreTrainedModel, requests: list[Ask], what: str) -> None:
    settings = AskSettings(num_speculative_tokens=CAP, batch_size=3)
    answers = trial.decode(models.target(), drafter, requests, settings)
    for ask, answer, counts in counted(requests, answers):
        limit = int(drafter.config.max_position_embeddings)
        expected = _replayed(drafter, ask, answer, limit)
        no_limit = _replayed(drafter, ask, answer, len(ask.prompt) + ask.max_new_tokens)
        if counts.drafted == no_limit.drafted != expected.drafted:
            trial.notes.append(f"{ask.name}: it drafts beyond the drafter's context")
            expected = no_limit
        trial.equal(counts.drafted, expected.drafted, f"drafts a step, {what}, {ask.name}")
        trial.equal(counts.accepted, expected.accepted, f"kept drafts, {what}, {ask.name}")
        if counts.examined is not None:
            examined = len(expected.examined_places)
            trial.equal(counts.examined, examined, f"examined drafts, {what}, {ask.name}")


def _replayed(drafter: PreTrainedModel, ask: Ask, answer: Answer, limit: int) -> steps.Steps:
    text = answer.token_ids
    read = [*ask.prompt, *text[:-1]][:limit]
    best = reference.plain_scores(drafter, read)[len(ask.prompt) - 1 :].argmax(-1)
    marks = torch.zeros(len(text), dtype=torch.bool)
    marks[: len(best)] = best == torch.tensor(text[: len(best)])
    return steps.steps_of(
        len(text),
        steps.agreeing_by_marks(marks.tolist()),
        num_speculative_tokens=CAP,
        max_new_tokens=ask.max_new_tokens,
        num_prompt_tokens=len(ask.prompt),
        max_length=limit,
    )
