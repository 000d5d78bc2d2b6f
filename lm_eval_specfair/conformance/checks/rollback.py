"""What a cache must not remember, forget or misplace, row by row."""

import itertools
from collections.abc import Sequence

from transformers import PreTrainedModel

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Answer,
    Ask,
    Capability,
    Drafting,
    RefusedError,
    Settings,
)
from lm_eval_specfair.conformance.checks.common import EOS, Prompt, asks, script
from lm_eval_specfair.conformance.reference import in_fp64, plain_scores, random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial

PROMPTS: tuple[Prompt, ...] = ((3, 4, 5), (6,), (7, 8, 9, 10, 11, 12, 13), (14, 15))


def ragged(trial: Trial, model: PreTrainedModel, patterns: Sequence[tuple[int, ...]]) -> None:
    """Decode rows of one batch that each keep other numbers of drafts, and judge their texts."""
    for pattern in patterns:
        shifted = [pattern[i:] + pattern[:i] for i in range(len(PROMPTS))]
        requests = asks(PROMPTS, 18)
        answers = trial.decode(
            model,
            script(model, PROMPTS, 18, shifted),
            requests,
            Settings(num_speculative_tokens=3, batch_size=len(PROMPTS)),
        )
        trial.judge(model, requests, answers)


def stale_keys(trial: Trial) -> None:
    """Every second order of keeping 0, 1, 2 and 3 drafts, four rows together."""
    ragged(trial, models.target(), list(itertools.permutations((0, 1, 2, 3)))[::2])


def positions(trial: Trial) -> None:
    """Learned positions show an absolute shift, rotary ones a shift between rows' own tokens."""
    patterns = [(0, 3, 1, 2), (3, 0, 2, 0), (1, 1, 3, 0)]
    ragged(trial, models.architecture("GPT-2"), patterns)
    ragged(trial, models.target(), patterns)


def trim(trial: Trial) -> None:
    """All kept, all but the last kept, none kept: one row alone, and several."""
    model = models.target()
    for length, batch_size in ((1, 1), (4, 1), (4, 4)):
        for right in {length, length - 1, 0}:
            requests = asks(PROMPTS, 16)
            answers = trial.decode(
                model,
                script(model, PROMPTS, 16, [(right,)] * len(PROMPTS)),
                requests,
                Settings(num_speculative_tokens=length, batch_size=batch_size),
            )
            trial.judge(model, requests, answers)


def _rejections(
    model: PreTrainedModel, ask: Ask, answer: Answer, greedy: bool, until: int | None
) -> tuple[int, int]:
    """Steps that rejected a draft of a twin: at a near-tie of the target, and otherwise."""
    if answer.counts is None:
        return 0, 0
    ties = others = kept = 0
    exact = plain_scores(in_fp64(model), [*ask.prompt, *answer.token_ids])
    for drafted, accepted in zip(answer.counts.drafted, answer.counts.accepted, strict=True):
        if until in answer.token_ids[:kept]:
            break
        if accepted < drafted:
            best = exact[len(ask.prompt) - 1 + kept + accepted].topk(2).values
            tie = greedy and float(best[0] - best[1]) < 1e-4
            ties, others = ties + tie, others + (not tie)
        kept += accepted + 1
    return ties, others


def keeps_all(
    trial: Trial,
    model: PreTrainedModel,
    drafter: Drafting,
    requests: Sequence[Ask],
    what: str,
    until: int | None = None,
) -> None:
    """A drafter that is the target must have all its drafts kept, greedy and sampled.

    Args:
        trial: Where to decode.
        model: The target.
        drafter: The same weights.
        requests: Of at least two tokens.
        what: Words for the report.
        until: Steps behind this token are not looked at; None for all steps.
    """
    for temperature in (0.0, 1.0):
        answers = trial.decode(
            model,
            drafter,
            requests,
            Settings(num_speculative_tokens=3, batch_size=4, temperature=temperature),
        )
        drafted = 0
        for ask, answer in zip(requests, answers, strict=True):
            if answer.counts is None:
                continue
            drafted += sum(answer.counts.drafted)
            ties, rejected = _rejections(model, ask, answer, temperature == 0, until)
            trial.num_near_ties += ties
            trial.expect(
                rejected == 0,
                f"{what}, temperature {temperature:g}, request {ask.name}: {rejected} rejections "
                "of what the target itself would say",
            )
        trial.expect(drafted > 0, f"{what}: nothing was drafted")


def drafter_cache(trial: Trial) -> None:
    """After full acceptance the drafter has not read its own last token: the next draft shows."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(6, longest=9, vocab_size=260, seed=11)]
    what = "a drafter equal to the target"
    # A token with the padding's id is another class of bug, and looked at there.
    keeps_all(trial, model, models.twin(), asks(prompts, 21), what, until=EOS)


def padding(trial: Trial) -> None:
    """Token 0 is padding, EOS and a token of the prompts all at once; lengths differ."""
    model = models.target()
    long = tuple(0 if i % 4 == 0 else 3 + i for i in range(30))
    prompts: list[Prompt] = [(0,), (0, 0, 0), (5, 0, 6), (0, 7, 8), (9, 10, 0), long, (11,)]
    for drafter in (models.near_drafter(), PROMPT_LOOKUP):
        requests = asks(prompts, 12, eos=[EOS])
        answers = trial.decode(model, drafter, requests, Settings(batch_size=len(prompts)))
        trial.judge(model, requests, answers)
    drawn = {Capability.COUNTS, Capability.SAMPLING} <= trial.backend.capabilities
    if drawn:
        requests = asks(prompts, 12)
        what = "a drafter equal to the target, token 0 in the text"
        keeps_all(trial, model, models.twin(), requests, what)


def _drafting(trial: Trial, model: PreTrainedModel, prompts: Sequence[Prompt]) -> Drafting:
    if Capability.SCRIPTED in trial.backend.capabilities:
        return script(model, prompts, 16, [(0, 3, 1), (2, 0, 3), (3, 1, 0)])
    return PROMPT_LOOKUP


def _any_model(trial: Trial, kinds: Sequence[str]) -> None:
    prompts: list[Prompt] = [(3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (6, 7), (20, 21, 22, 20, 21)]
    for kind in kinds:
        model = models.architecture(kind)
        requests = asks(prompts, 16)
        settings = Settings(num_speculative_tokens=3, batch_size=3)
        try:
            answers = trial.decode(model, _drafting(trial, model, prompts), requests, settings)
            right = trial.judge(model, requests, answers)
            drafter = models.disturbed(model, 0.01)
            answers = trial.decode(model, drafter, requests, settings)
            right += trial.judge(model, requests, answers)
        except RefusedError as error:
            trial.refusal(error, kind)
        else:
            trial.notes.append(f"{kind}: {right} of {2 * len(requests)} texts right")


def uncroppable(trial: Trial) -> None:
    """Windows and recurrent states: decoded without loss, or refused in words."""
    _any_model(trial, list(models.UNCROPPABLE))


def architectures(trial: Trial) -> None:
    """Nine architectures with random weights, rows of one batch keeping other numbers."""
    _any_model(trial, list(models.FULL_ATTENTION))


CHECKS = (
    Check(
        number=1,
        name="stale-keys",
        group="cache",
        proves="Keys of rejected drafts are never attended to, whatever each row of a batch keeps.",
        witness="mlx-vlm#1155, mlx-vlm#2113",
        needs=frozenset({Capability.SCRIPTED}),
        body=stale_keys,
    ),
    Check(
        number=2,
        name="positions",
        group="cache",
        proves="A row's positions advance by what it kept, not by the block.",
        witness="mlx-vlm#1155, vllm#26498",
        needs=frozenset({Capability.SCRIPTED}),
        body=positions,
    ),
    Check(
        number=3,
        name="trim",
        group="cache",
        proves="The cache is cut to what was kept, after none, all but one and all drafts.",
        witness="openvino.genai#4190, ColossalAI#5449, transformers#30042",
        needs=frozenset({Capability.SCRIPTED}),
        body=trim,
    ),
    Check(
        number=4,
        name="drafter-cache",
        group="cache",
        proves="A drafter equal to the target has every draft kept: its own cache has no gap.",
        witness="ColossalAI#5449 (gpt-fast handles it)",
        needs=frozenset({Capability.COUNTS, Capability.SAMPLING}),
        body=drafter_cache,
    ),
    Check(
        number=5,
        name="padding",
        group="cache",
        proves="Prompts of other lengths, and prompts that hold the padding or EOS token, are read "
        "as they are.",
        witness="eBay/spec_dec, trl GKD (pad_equals_eos)",
        needs=frozenset(),
        body=padding,
    ),
    Check(
        number=6,
        name="uncroppable",
        group="cache",
        proves="A model whose cache cannot be cut back is refused or decoded without loss.",
        witness="mlx-lm#1109, mlx-lm#1486",
        needs=frozenset(),
        body=uncroppable,
        may_refuse=True,
    ),
    Check(
        number=26,
        name="architectures",
        group="cache",
        proves="Llama, Qwen2, Qwen3, Gemma, Mistral without window, Phi, GPT-2, GPT-NeoX and OPT "
        "are each decoded without loss or refused.",
        witness="found here: models differ in how they take positions and masks",
        needs=frozenset(),
        body=architectures,
        may_refuse=True,
    ),
)
