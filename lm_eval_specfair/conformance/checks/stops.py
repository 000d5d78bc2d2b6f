"""Where a text ends: EOS, length and stop strings anywhere in a block of kept drafts."""

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Answer, Ask, Capability, Settings
from lm_eval_specfair.conformance.checks.common import EOS, Prompt, asks, known_text, script
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.conformance.trial import Check, Trial

LENGTH, CAP = 12, 4


def _known(right: int) -> tuple[Prompt, tuple[int, ...], Script]:
    """A prompt, its twelve different tokens, and a script with `right` right drafts a step."""
    model = models.target()
    prompt, answer = known_text(model, LENGTH)
    return prompt, answer, script(model, [prompt], LENGTH, [(right,)])


def _ends(trial: Trial, answer: Answer, expected: tuple[int, ...], reason: str, what: str) -> None:
    trial.equal(tuple(answer.token_ids), expected, f"text, {what}")
    if Capability.FINISH_REASONS in trial.backend.capabilities:
        trial.equal(answer.finish_reason, reason, f"finish reason, {what}")


def _counted_to(trial: Trial, answer: Answer, right: int, end: int, what: str) -> None:
    """Counts stop at token `end`; an accepted token that ends the text may count as the bonus."""
    if answer.counts is None:
        return
    kept, steps, last = 0, 0, 0
    while kept <= end:
        number = min(CAP, LENGTH - kept - 1)
        last = min(right, number, end - kept + 1)
        kept += min(right, number) + 1
        steps += 1
    before = [min(right, CAP)] * (steps - 1)
    accepted = answer.counts.accepted
    trial.expect(
        accepted in ([*before, last], [*before, last - 1]),
        f"kept drafts, {what}: {accepted}, expected {[*before, last]}",
    )


def eos_in_block(trial: Trial) -> None:
    """EOS at each place of a block, kept from drafts, recovered or as the bonus token."""
    for right in (CAP, 2, 0):
        prompt, answer, drafts = _known(right)
        requests = [
            Ask(name=f"e{end}", prompt=prompt, max_new_tokens=LENGTH, eos_token_ids=(answer[end],))
            for end in range(LENGTH)
        ]
        answers = trial.decode(
            models.target(), drafts, requests, Settings(num_speculative_tokens=CAP, batch_size=5)
        )
        for end, got in enumerate(answers):
            what = f"{right} right, EOS is token {end}"
            _ends(trial, got, answer[: end + 1], "eos", what)
            _counted_to(trial, got, right, end, what)


def length(trial: Trial) -> None:
    """Each limit gives just so many tokens; EOS before the limit, or at it, is the reason."""
    for right in (CAP, 1):
        prompt, answer, drafts = _known(right)
        requests, ends = [], []
        for limit in range(1, LENGTH + 1):
            requests.append(Ask(name=f"l{limit}", prompt=prompt, max_new_tokens=limit))
            ends.append((limit, "length"))
            for end in {max(0, limit - 1), max(0, limit - 2)}:
                requests.append(
                    Ask(
                        name=f"l{limit}e{end}",
                        prompt=prompt,
                        max_new_tokens=limit,
                        eos_token_ids=(answer[end],),
                    )
                )
                ends.append((end + 1, "eos"))
        answers = trial.decode(
            models.target(), drafts, requests, Settings(num_speculative_tokens=CAP, batch_size=7)
        )
        for ask, got, (number, reason) in zip(requests, answers, ends, strict=True):
            _ends(trial, got, answer[:number], reason, f"{right} right, request {ask.name}")


def stop_strings(trial: Trial) -> None:
    """A stop string at each place: one token, parts of two, three tokens over two blocks."""
    for right in (CAP, 2):
        prompt, answer, drafts = _known(right)
        requests, ends = [], []
        for end in range(LENGTH - 1):
            stops = {f"one{end}": f"<{answer[end]}>"}
            if end:
                stops[f"two{end}"] = f"{answer[end - 1]}><{answer[end]}"
            if end > 1:
                stops[f"three{end}"] = f"<{answer[end - 2]}><{answer[end - 1]}><{answer[end]}>"
            for name, stop in stops.items():
                requests.append(
                    Ask(name=name, prompt=prompt, max_new_tokens=LENGTH, stop_strings=(stop,))
                )
                ends.append(end)
        answers = trial.decode(
            models.target(), drafts, requests, Settings(num_speculative_tokens=CAP, batch_size=7)
        )
        for ask, got, end in zip(requests, answers, ends, strict=True):
            what = f"{right} right, stop {ask.stop_strings[0]} completed by token {end}"
            _ends(trial, got, answer[: end + 1], "stop", what)
            _counted_to(trial, got, right, end, what)


def drafter_eos(trial: Trial) -> None:
    """Drafted EOS tokens that the target rejects end nothing."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(5, longest=9, vocab_size=260, seed=16)]
    for pattern in ((0,), (2, 0, 1)):
        requests = asks(prompts, 14, eos=[EOS])
        answers = trial.decode(
            model,
            script(model, prompts, 14, [pattern] * len(prompts), wrong=EOS),
            requests,
            Settings(num_speculative_tokens=3, batch_size=3),
        )
        trial.judge(model, requests, answers)
        trial.expect(
            any(len(answer.token_ids) == 14 for answer in answers),
            "every text ended early, which shows nothing",
        )


_SCRIPTED = frozenset({Capability.SCRIPTED})

CHECKS = (
    Check(
        number=12,
        name="eos-in-block",
        group="stopping",
        proves="Nothing behind EOS is emitted or counted, wherever in a block it lies.",
        witness="transformers#47912, koboldcpp#1276, vllm#56101, sglang#39826",
        needs=_SCRIPTED,
        body=eos_in_block,
    ),
    Check(
        number=13,
        name="length",
        group="stopping",
        proves="A text has just the tokens asked for, and an earlier EOS is its reason to end.",
        witness="sglang#31599, sglang#33758",
        needs=_SCRIPTED,
        body=length,
    ),
    Check(
        number=14,
        name="stop-strings",
        group="stopping",
        proves="A stop string is found early in a block, across tokens and across blocks.",
        witness="sglang#23802, PaddlePaddle/FastDeploy#7121",
        needs=_SCRIPTED | {Capability.STOP_STRINGS},
        body=stop_strings,
    ),
    Check(
        number=15,
        name="drafter-eos",
        group="stopping",
        proves="EOS from the drafter ends a text only when the target says so.",
        witness="openvino.genai#3293",
        needs=_SCRIPTED,
        body=drafter_eos,
    ),
)
