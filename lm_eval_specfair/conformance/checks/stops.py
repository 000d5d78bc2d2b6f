"""Checks of where a text ends: EOS, length and stop strings anywhere in a block of kept drafts."""

import dataclasses
from collections.abc import Iterator, Sequence

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Answer, Ask, AskSettings, Capability
from lm_eval_specfair.conformance.checks.common import EOS, asks, known_text, prompts_of, script
from lm_eval_specfair.conformance.trial import Trial, check

LENGTH, CAP = 12, 4


def _ask(name: str, limit: int = LENGTH, *, eos: Sequence[int] = (), stop: str = "") -> Ask:
    """A request whose greedy text has twelve different tokens."""
    ask = asks([known_text(models.target(), LENGTH)[0]], limit, eos=eos)[0]
    return dataclasses.replace(ask, name=name, stop_strings=(stop,) if stop else ())


def _decoded(trial: Trial, right: int, requests: list[Ask]) -> Iterator[tuple[Ask, Answer]]:
    """Answers to a script with `right` right drafts per step; nothing is judged."""
    model = models.target()
    drafts = script(model, [requests[0].prompt], LENGTH, [(right,)])
    settings = AskSettings(num_speculative_tokens=CAP, batch_size=5)
    return zip(requests, trial.decode(model, drafts, requests, settings), strict=True)


def _ends(trial: Trial, answer: Answer, number: int, reason: str, what: str) -> None:
    """The text is the first `number` tokens of the greedy one."""
    text = known_text(models.target(), LENGTH)[1][:number]
    trial.equal(tuple(answer.token_ids), text, f"text, {what}")
    if trial.can(Capability.FINISH_REASONS):
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


@check(
    12,
    "stopping",
    "transformers#47912, koboldcpp#1276, vllm#56101, sglang#39826",
    Capability.SCRIPTED,
)
def eos_in_block(trial: Trial) -> None:
    """Nothing after EOS is emitted or counted, wherever in a block it is."""
    # EOS at each place of a block, kept from drafts, recovered or as the bonus token.
    text = known_text(models.target(), LENGTH)[1]
    requests = [_ask(f"e{end}", eos=[token]) for end, token in enumerate(text)]
    for right in (CAP, 2, 0):
        for end, (_, answer) in enumerate(_decoded(trial, right, requests)):
            what = f"{right} right, EOS is token {end}"
            _ends(trial, answer, end + 1, "eos", what)
            _counted_to(trial, answer, right, end, what)


@check(13, "stopping", "sglang#31599, sglang#33758", Capability.SCRIPTED)
def length(trial: Trial) -> None:
    """A text has just the tokens asked for, and an earlier EOS is its reason to end."""
    text = known_text(models.target(), LENGTH)[1]
    ends: list[tuple[Ask, int, str]] = []
    for limit in range(1, LENGTH + 1):
        ends.append((_ask(f"l{limit}", limit), limit, "length"))
        for end in {max(0, limit - 1), max(0, limit - 2)}:
            ends.append((_ask(f"l{limit}e{end}", limit, eos=[text[end]]), end + 1, "eos"))
    for right in (CAP, 1):
        answers = _decoded(trial, right, [ask for ask, *_ in ends])
        for (ask, answer), (_, number, reason) in zip(answers, ends, strict=True):
            _ends(trial, answer, number, reason, f"{right} right, request {ask.name}")


@check(
    14,
    "stopping",
    "sglang#23802, PaddlePaddle/FastDeploy#7121",
    Capability.SCRIPTED,
    Capability.STOP_STRINGS,
)
def stop_strings(trial: Trial) -> None:
    """A stop string is found early in a block, across tokens and across blocks."""
    # At each place: one token, parts of two, three tokens over two blocks.
    text = known_text(models.target(), LENGTH)[1]
    ends: list[tuple[Ask, int]] = []
    for end in range(LENGTH - 1):
        stops = {f"one{end}": f"<{text[end]}>"}
        if end:
            stops[f"two{end}"] = f"{text[end - 1]}><{text[end]}"
        if end > 1:
            stops[f"three{end}"] = f"<{text[end - 2]}><{text[end - 1]}><{text[end]}>"
        ends += [(_ask(name, stop=stop), end) for name, stop in stops.items()]
    for right in (CAP, 2):
        answers = _decoded(trial, right, [ask for ask, _ in ends])
        for (ask, answer), (_, end) in zip(answers, ends, strict=True):
            what = f"{right} right, stop {ask.stop_strings[0]} completed by token {end}"
            _ends(trial, answer, end + 1, "stop", what)
            _counted_to(trial, answer, right, end, what)


@check(15, "stopping", "openvino.genai#3293", Capability.SCRIPTED)
def drafter_eos(trial: Trial) -> None:
    """EOS from the drafter ends a text only when the target says so."""
    model = models.target()
    prompts = prompts_of(5, 9, seed=16)
    requests = asks(prompts, 14, eos=[EOS])
    for pattern in ((0,), (2, 0, 1)):
        drafts = script(model, prompts, 14, [pattern] * len(prompts), wrong=EOS)
        answers = trial.greedy(model, drafts, requests, num_speculative_tokens=3, batch_size=3)
        trial.expect(
            any(len(answer.token_ids) == 14 for answer in answers),
            "every text ended early, which shows nothing",
        )
