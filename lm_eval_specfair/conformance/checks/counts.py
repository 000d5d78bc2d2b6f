"""Checks of counters: drafts and kept drafts of each step, and none for finished rows."""

import itertools

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import AskSettings, Capability, RefusedError
from lm_eval_specfair.conformance.checks.common import Prompt, asks, counted, prompts_of, script
from lm_eval_specfair.conformance.script import expected_counts
from lm_eval_specfair.conformance.trial import Trial, check


@check(
    20, "counters", "vllm#2658, vllm#17908, sglang#11572", Capability.SCRIPTED, Capability.COUNTS
)
def counters(trial: Trial) -> None:
    """Drafts and kept drafts of each step are those worked out by hand."""
    model = models.target()
    prompts: list[Prompt] = [(3, 4, 5), (6,), (7, 8, 9), (14, 15), (2, 1), (40, 41, 42)]
    patterns = [(0,), (4,), (1, 3), (2, 0, 4), (3, 3, 0), (0, 1, 2, 3, 4)]
    requests = asks(prompts, [13, 15, 1, 16, 2, 14])
    for resumes, cap in itertools.product((False, True), (1, 4)):
        drafts = script(model, prompts, 16, patterns, resumes=resumes)
        answers = trial.greedy(model, drafts, requests, num_speculative_tokens=cap, batch_size=3)
        for ask, _, counts in counted(requests, answers):
            drafted, accepted = expected_counts(drafts, ask.prompt, ask.max_new_tokens, cap)
            trial.equal(counts.drafted, drafted, f"drafts a step, request {ask.name}")
            trial.equal(counts.accepted, accepted, f"kept drafts, request {ask.name}")
            if counts.examined is not None:
                rejected = sum(k < d for k, d in zip(accepted, drafted, strict=True))
                what = f"examined drafts, request {ask.name}"
                trial.equal(counts.examined, sum(accepted) + rejected, what)


@check(21, "counters", "eBay/spec_dec, vLLM's max_len tests", Capability.COUNTS)
def finished_rows(trial: Trial) -> None:
    """Finished rows draft nothing and delay nobody; the shortest and longest texts are whole."""
    model = models.target()
    requests = asks(prompts_of(8, 9, seed=17), [1, 18, 2, 1, 7, 18, 3, 5])
    together = trial.greedy(model, models.near_drafter(), requests, batch_size=3)
    alone = trial.decode(model, models.near_drafter(), requests, AskSettings(batch_size=1))
    for ask, one, other in zip(requests, together, alone, strict=True):
        trial.equal(one.counts, other.counts, f"counts with and without companions, {ask.name}")
    for ask, answer, counts in counted(requests, together):
        # Each step drafts at most what can still be kept beside the token that follows anyway.
        kept, what = 0, f"request {ask.name}"
        for drafted, accepted in zip(counts.drafted, counts.accepted, strict=True):
            most = min(AskSettings().num_speculative_tokens, ask.max_new_tokens - kept - 1)
            trial.expect(drafted <= most, f"{what}: {drafted} drafts where {most} could be kept")
            kept += accepted + 1
        what += ": kept drafts and one token a step, in all"
        trial.equal(kept, len(answer.token_ids), what)
    _context_limits(trial)


def _context_limits(trial: Trial) -> None:
    """Texts that end at the target's last position, and a drafter with a shorter context."""
    target = models.llama(0, head_dim=32, max_position_embeddings=64)
    prompts: list[Prompt] = [tuple(1 + (i * i) % 50 for i in range(n)) for n in (63, 62, 55, 3)]
    requests = asks(prompts, [min(64 - len(prompt), 20) for prompt in prompts])
    short = models.llama(1, layers=1, head_dim=32, max_position_embeddings=24)
    for drafter, what in ((models.near_drafter(), "the last position"), (short, "a short drafter")):
        try:
            trial.greedy(target, drafter, requests, batch_size=4)
        except RefusedError as error:
            trial.refusal(error, what)
