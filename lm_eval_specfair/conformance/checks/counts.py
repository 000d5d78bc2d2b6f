"""What is counted: drafts, kept drafts, steps, and nothing for rows that are done."""

import itertools

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Answer, Capability, RefusedError, Settings
from lm_eval_specfair.conformance.checks.common import Prompt, asks, script
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.script import expected_counts
from lm_eval_specfair.conformance.trial import Check, Trial


def counters(trial: Trial) -> None:
    """Counts of scripted runs, worked out from the script; right drafts follow wrong ones."""
    model = models.target()
    prompts: list[Prompt] = [(3, 4, 5), (6,), (7, 8, 9), (14, 15), (2, 1), (40, 41, 42)]
    patterns = [(0,), (4,), (1, 3), (2, 0, 4), (3, 3, 0), (0, 1, 2, 3, 4)]
    lengths = [13, 15, 1, 16, 2, 14]
    for resumes, cap in itertools.product((False, True), (1, 4)):
        drafts = script(model, prompts, 16, patterns, resumes=resumes)
        requests = asks(prompts, lengths)
        answers = trial.decode(
            model, drafts, requests, Settings(num_speculative_tokens=cap, batch_size=3)
        )
        trial.judge(model, requests, answers)
        for ask, answer in zip(requests, answers, strict=True):
            if answer.counts is None:
                continue
            drafted, accepted = expected_counts(drafts, ask.prompt, ask.max_new_tokens, cap)
            trial.equal(answer.counts.drafted, drafted, f"drafts a step, request {ask.name}")
            trial.equal(answer.counts.accepted, accepted, f"kept drafts, request {ask.name}")
            if answer.counts.examined is not None:
                met = sum(k < d for k, d in zip(accepted, drafted, strict=True))
                trial.equal(
                    answer.counts.examined,
                    sum(accepted) + met,
                    f"examined drafts, request {ask.name}",
                )


def finished_rows(trial: Trial) -> None:
    """Short and long requests together: nothing is drafted in vain, companions change no count."""
    model, cap = models.target(), 4
    prompts = [tuple(p) for p in random_prompts(8, longest=9, vocab_size=260, seed=17)]
    lengths = [1, 18, 2, 1, 7, 18, 3, 5]
    requests = asks(prompts, lengths)
    together = trial.decode(
        model, models.near_drafter(), requests, Settings(num_speculative_tokens=cap, batch_size=3)
    )
    alone = trial.decode(
        model, models.near_drafter(), requests, Settings(num_speculative_tokens=cap, batch_size=1)
    )
    trial.judge(model, requests, together)
    for ask, one, other in zip(requests, together, alone, strict=True):
        trial.equal(one.counts, other.counts, f"counts with and without companions, {ask.name}")
        _drafts_in_reason(trial, one, ask.max_new_tokens, cap, f"request {ask.name}")
    _context_limits(trial)


def _drafts_in_reason(trial: Trial, answer: Answer, length: int, cap: int, what: str) -> None:
    """Each step drafts at most what can still be kept beside the token that follows anyway."""
    if answer.counts is None:
        return
    kept = 0
    for drafted, accepted in zip(answer.counts.drafted, answer.counts.accepted, strict=True):
        most = min(cap, length - kept - 1)
        trial.expect(drafted <= most, f"{what}: {drafted} drafts where {most} could be kept")
        kept += accepted + 1
    trial.equal(kept, len(answer.token_ids), f"{what}: kept drafts and one token a step, in all")


def _context_limits(trial: Trial) -> None:
    """Texts that end at the target's last position, and a drafter with a shorter context."""
    target = models.llama(0, head_dim=32, max_position_embeddings=64)
    prompts: list[Prompt] = [tuple(1 + (i * i) % 50 for i in range(n)) for n in (63, 62, 55, 3)]
    requests = asks(prompts, [min(64 - len(prompt), 20) for prompt in prompts])
    short = models.llama(1, layers=1, head_dim=32, max_position_embeddings=24)
    for drafter, what in ((models.near_drafter(), "the last position"), (short, "a short drafter")):
        try:
            answers = trial.decode(target, drafter, requests, Settings(batch_size=4))
        except RefusedError as error:
            trial.refusal(error, what)
        else:
            trial.judge(target, requests, answers)


CHECKS = (
    Check(
        number=20,
        name="counters",
        group="counters",
        proves="Drafts and kept drafts of each step are those worked out by hand.",
        witness="vllm#2658, vllm#17908, sglang#11572",
        needs=frozenset({Capability.SCRIPTED, Capability.COUNTS}),
        body=counters,
    ),
    Check(
        number=21,
        name="finished-rows",
        group="counters",
        proves="Rows that are done draft nothing and hold nobody up; requests of one token and "
        "texts at the end of the context come out whole.",
        witness="eBay/spec_dec, vLLM's max_len tests",
        needs=frozenset({Capability.COUNTS}),
        body=finished_rows,
    ),
)
