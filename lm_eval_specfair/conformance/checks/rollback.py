"""Checks of the cache: what it must not remember, forget or misplace, row by row."""

import itertools
from collections.abc import Callable, Iterable, Sequence

from transformers import PreTrainedModel

from lm_eval_specfair.conformance import tiny_families as families
from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import (
    PROMPT_LOOKUP,
    Ask,
    AskSettings,
    Capability,
    Drafting,
    RefusedError,
)
from lm_eval_specfair.conformance.checks.common import (
    EOS,
    Prompt,
    asks,
    counted,
    prompts_of,
    script,
    totals,
)
from lm_eval_specfair.conformance.reference import in_fp64, plain_scores
from lm_eval_specfair.conformance.trial import Trial, check

PROMPTS: tuple[Prompt, ...] = ((3, 4, 5), (6,), (7, 8, 9, 10, 11, 12, 13), (14, 15))


def ragged(trial: Trial, model: PreTrainedModel, patterns: Sequence[tuple[int, ...]]) -> None:
    """Decode rows of one batch that each keep other numbers of drafts, and judge their texts."""
    requests = asks(PROMPTS, 18)
    for pattern in patterns:
        shifted = [pattern[i:] + pattern[:i] for i in range(len(PROMPTS))]
        drafts = script(model, PROMPTS, 18, shifted)
        trial.greedy(model, drafts, requests, num_speculative_tokens=3, batch_size=len(PROMPTS))


@check(1, "cache", "mlx-vlm#1155, mlx-vlm#2113", Capability.SCRIPTED)
def stale_keys(trial: Trial) -> None:
    """Keys of rejected drafts are never attended to, whatever each row of a batch keeps."""
    # Every second order of keeping 0, 1, 2 and 3 drafts, four rows together.
    ragged(trial, models.target(), list(itertools.permutations((0, 1, 2, 3)))[::2])


@check(2, "cache", "mlx-vlm#1155, vllm#26498", Capability.SCRIPTED)
def positions(trial: Trial) -> None:
    """A row's positions advance by what it kept, not by the block."""
    # Learned positions show an absolute shift, rotary ones a shift between rows' own tokens.
    for model in (models.architecture("GPT-2"), models.target()):
        ragged(trial, model, [(0, 3, 1, 2), (3, 0, 2, 0), (1, 1, 3, 0)])


@check(3, "cache", "openvino.genai#4190, ColossalAI#5449, transformers#30042", Capability.SCRIPTED)
def trim(trial: Trial) -> None:
    """The cache is cut to what was kept, after none, all but one and all drafts."""
    model = models.target()
    for length, batch_size in ((1, 1), (4, 1), (4, 4)):
        for right in {length, length - 1, 0}:
            drafts = script(model, PROMPTS, 16, [(right,)] * len(PROMPTS))
            settings = {"num_speculative_tokens": length, "batch_size": batch_size}
            trial.greedy(model, drafts, asks(PROMPTS, 16), **settings)


def keeps_all(trial: Trial, requests: Sequence[Ask], what: str, until: int | None = None) -> None:
    """A twin of the target must have all its drafts kept, at least up to the token `until`."""
    model, twin = models.target(), models.twin()
    for temperature in (0.0, 1.0):
        settings = AskSettings(num_speculative_tokens=3, batch_size=4, temperature=temperature)
        answers = trial.decode(model, twin, requests, settings)
        for ask, answer, counts in counted(requests, answers):
            exact = plain_scores(in_fp64(model), [*ask.prompt, *answer.token_ids])
            kept = ties = rejected = 0
            for drafted, accepted in zip(counts.drafted, counts.accepted, strict=True):
                if until in answer.token_ids[:kept]:
                    break
                if accepted < drafted:
                    best = exact[len(ask.prompt) - 1 + kept + accepted].topk(2).values
                    tie = temperature == 0 and float(best[0] - best[1]) < 1e-4
                    ties, rejected = ties + tie, rejected + (not tie)
                kept += accepted + 1
            trial.num_near_ties += ties
            trial.expect(
                rejected == 0,
                f"{what}, temperature {temperature:g}, request {ask.name}: {rejected} rejections "
                "of what the target itself would say",
            )
        trial.expect(totals(answers)[1] > 0, f"{what}: nothing was drafted")


@check(4, "cache", "ColossalAI#5449 (gpt-fast handles it)", Capability.COUNTS, Capability.SAMPLING)
def drafter_cache(trial: Trial) -> None:
    """A drafter equal to the target has every draft kept: its own cache has no gap."""
    # After full acceptance the drafter has not read its own last token: the next draft shows it.
    requests = asks(prompts_of(6, 9, seed=11), 21)
    # A token with the padding's id is another class of bug, which `padding` looks at.
    keeps_all(trial, requests, "a drafter equal to the target", until=EOS)


@check(5, "cache", "eBay/spec_dec, trl GKD (pad_equals_eos)")
def padding(trial: Trial) -> None:
    """Prompts of other lengths, or with the padding or EOS token in them, are read as they are."""
    # Token 0 is padding, EOS and a token of the prompts all at once.
    model = models.target()
    long = tuple(0 if i % 4 == 0 else 3 + i for i in range(30))
    prompts: list[Prompt] = [(0,), (0, 0, 0), (5, 0, 6), (0, 7, 8), (9, 10, 0), long, (11,)]
    for drafter in (models.near_drafter(), PROMPT_LOOKUP):
        trial.greedy(model, drafter, asks(prompts, 12, eos=[EOS]), batch_size=len(prompts))
    if trial.can(Capability.COUNTS) and trial.can(Capability.SAMPLING):
        keeps_all(trial, asks(prompts, 12), "a drafter equal to the target, token 0 in the text")


SHORT_PROMPTS: list[Prompt] = [(3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (6, 7), (20, 21, 22, 20, 21)]
# Longer than the windows of `FAMILIES`, and of lengths that are far apart.
LONG_PROMPTS: list[Prompt] = [tuple((7 * i + n) % 90 + 3 for i in range(n)) for n in (33, 6, 19)]
# One of each kind of layer: windows, chunks with scaled queries, sinks, windows in buffers, shared
# keys and values, a bias by the key's index.
LAYER_KINDS = ("gemma3", "llama4", "gpt_oss", "gpt_neo", "gemma4", "bloom")


def _any_model(
    trial: Trial,
    kinds: Iterable[str],
    make: Callable[[str], PreTrainedModel] = models.architecture,
    prompts: list[Prompt] = SHORT_PROMPTS,
) -> None:
    """Rows of one batch keep other numbers of drafts, from a script where one can be given."""
    requests = asks(prompts, 16)
    settings = AskSettings(num_speculative_tokens=3, batch_size=3)
    for kind in kinds:
        model = make(kind)
        drafters: list[Drafting] = [PROMPT_LOOKUP, models.disturbed(model, 0.01)]
        if trial.can(Capability.SCRIPTED):
            drafters[0] = script(model, prompts, 16, [(0, 3, 1), (2, 0, 3), (3, 1, 0)])
        right = 0
        try:
            for drafter in drafters:
                answers = trial.decode(model, drafter, requests, settings)
                right += trial.judge(model, requests, answers)
        except RefusedError as error:
            trial.refusal(error, kind)
        else:
            trial.notes.append(f"{kind}: {right} of {2 * len(requests)} texts right")


@check(6, "cache", "mlx-lm#1109, mlx-lm#1486", may_refuse=True)
def uncroppable(trial: Trial) -> None:
    """A model whose cache cannot be cut back is refused or decoded without loss."""
    _any_model(trial, models.UNCROPPABLE)


@check(
    26, "cache", "found here: models differ in how they take positions and masks", may_refuse=True
)
def architectures(trial: Trial) -> None:
    """Nine architectures with full attention are each decoded without loss or refused."""
    _any_model(trial, models.FULL_ATTENTION)


@check(
    29, "cache", "found here: what a layer looks back on, and what it counts by", may_refuse=True
)
def layer_kinds(trial: Trial) -> None:
    """Windows, chunks, sinks and positions of each layer's own kind hold beyond their lengths."""
    _any_model(trial, LAYER_KINDS, families.family, LONG_PROMPTS)
