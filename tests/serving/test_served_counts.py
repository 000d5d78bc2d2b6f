"""Counts of served texts: every way in which servers count, from the same known steps.

The expected fields are worked out here token by token, from how the steps were made.
"""

import random
from dataclasses import dataclass

import pytest

from lm_eval_specfair.serving.count_fields import COUNT_FIELDS, ServedText, cut_text
from lm_eval_specfair.serving.served_counts import ServedCounts, contradictions
from lm_eval_specfair.serving.served_steps import Arrival, served_steps

LENGTH = 4


@dataclass(frozen=True)
class Made:
    """A text of which every step is known, as a server made it and as it may report it."""

    steps: list[tuple[int, int]]  # drafted and accepted, the prompt's pass first, uncut
    num_tokens: int  # up to its end
    limit: int
    reason: str

    @property
    def pieces(self) -> list[int]:
        """The tokens that each step added to the text."""
        left, lengths = self.num_tokens, []
        for _, accepted in self.steps:
            lengths.append(min(accepted + 1, left))
            left -= lengths[-1]
        return lengths

    def drafting(self):
        return [step for step in self.steps if step[0]]

    def expected(self):
        """Our counts, from the definition: what the end or the limit made useless is not there."""
        drafted_per_step, accepted_per_step, examined, start = [], [], 0, 0
        for drafted, accepted in self.steps:
            drafted = min(drafted, self.limit - start - 1)
            accepted = min(accepted, drafted)
            kept = [
                place for place in range(start, start + accepted + 1) if place < self.num_tokens
            ]
            accepted_kept = min(len(kept), accepted)
            examined += accepted_kept + (len(kept) > accepted and accepted < drafted)
            drafted_per_step.append(drafted)
            accepted_per_step.append(accepted_kept)
            start += len(kept)
        histogram = [accepted_per_step.count(number) for number in range(LENGTH + 1)]
        values = (
            len(self.steps), sum(drafted_per_step), sum(accepted_per_step), examined, histogram,
            drafted_per_step, accepted_per_step,
        )  # fmt: skip
        return dict(zip(COUNT_FIELDS, values, strict=True))


def made(seed: int, *, undrafted: float = 0.0, shortens: bool = False) -> Made:
    """A text by chance; with `shortens`, no more is drafted than the limit leaves room for."""
    chance = random.Random(seed)
    limit = chance.randint(1, 30)
    wanted = limit if chance.random() < 0.4 else chance.randint(1, limit)
    steps, length = [(0, 0)], 1
    while length < wanted:
        room = limit - length - 1 if shortens else LENGTH
        drafted = 0 if chance.random() < undrafted else min(LENGTH, room)
        accepted = chance.randint(0, drafted)
        steps.append((drafted, accepted))
        length += accepted + 1
    reason = "length" if wanted == limit else chance.choice(["eos", "stop"])
    return Made(steps, wanted, limit, reason)


def arrivals_of(text: Made) -> list[Arrival]:
    return [Arrival(seconds=0.1, num_tokens=length) for length in text.pieces]


def histogram_of(steps):
    accepted = [accepted for _, accepted in steps]
    return [accepted.count(number) for number in range(LENGTH + 1)]


def vllm_counts(text: Made, *, detailed: bool = True, padded: bool = False) -> ServedCounts:
    """With `padded`, the prompt's pass had one token to compute and was widened like the others."""
    steps = [(LENGTH, 0)] * padded + text.drafting()
    return ServedCounts(
        convention="vllm",
        num_spec_steps=len(steps),
        num_draft_tokens=sum(drafted for drafted, _ in steps),
        num_accepted_draft_tokens=sum(accepted for _, accepted in steps),
        acceptance_histogram=histogram_of(steps),
        drafted_per_step=[drafted for drafted, _ in steps] if detailed else None,
        accepted_per_step=[accepted for _, accepted in steps] if detailed else None,
        num_spec_tokens=LENGTH,
    )


def cut(text: Made, counts: ServedCounts | None, arrivals=()):
    served = ServedText(
        num_tokens=text.num_tokens, token_ids=None, finish_reason=text.reason,
        counts=counts, arrivals=arrivals,
    )  # fmt: skip
    return cut_text(served, max_new_tokens=text.limit, num_speculative_tokens=LENGTH)


def agrees(found, expected) -> bool:
    """Equal where anything is said."""
    return all(value in (None, expected[name]) for name, value in found.items())


# ------------------------------------------------------------------ vLLM


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("streamed", [True, False])
def test_vllms_steps_are_ours(seed, streamed):
    text = made(seed)

    found = cut(text, vllm_counts(text), arrivals_of(text) if streamed else ())

    assert found.fields == text.expected()
    assert (found.num_tokens, found.finish_reason) == (text.num_tokens, text.reason)


@pytest.mark.parametrize("seed", range(60))
def test_a_padded_pass_of_the_prompt_is_no_step_with_drafts(seed):
    text = made(seed)
    is_cut = sum(accepted + 1 for _, accepted in text.steps) > text.num_tokens

    assert cut(text, vllm_counts(text, padded=True), arrivals_of(text)).fields == text.expected()
    if not is_cut and not text.steps[-1][1]:
        assert cut(text, vllm_counts(text, padded=True)).fields == text.expected()


@pytest.mark.parametrize("seed", range(60))
def test_passes_without_drafts_are_found_in_the_stream(seed):
    text = made(seed, undrafted=0.4)

    found = cut(text, vllm_counts(text), arrivals_of(text)).fields

    # Which of two neighbours that emitted one token each had drafts does not show, and so neither
    # what of its drafts the length limit made useless: null, never a guess.
    assert agrees(found, text.expected())
    doubtful = {"drafted_per_step"}
    if text.reason == "length":
        doubtful |= {"num_draft_tokens", "num_examined_draft_tokens"}
    assert {name for name, value in found.items() if value is None} <= doubtful


def test_where_a_step_without_gain_stood_is_said_only_if_it_shows():
    def drafted(*lengths, steps=((4, 0),), limit=100):
        counts = ServedCounts(
            convention="vllm", num_spec_steps=len(steps), num_spec_tokens=4,
            drafted_per_step=[drafts for drafts, _ in steps],
            accepted_per_step=[kept for _, kept in steps],
        )  # fmt: skip
        arrivals = [Arrival(seconds=0.1, num_tokens=length) for length in (1, *lengths)]
        text = ServedText(
            num_tokens=1 + sum(lengths), token_ids=None, finish_reason="eos",
            counts=counts, arrivals=arrivals,
        )  # fmt: skip
        return cut_text(text, max_new_tokens=limit).fields

    assert drafted(1)["drafted_per_step"] == [0, 4]
    assert drafted(1, 1)["drafted_per_step"] is None
    assert drafted(1, 1)["num_draft_tokens"] == drafted(1, 1)["num_examined_draft_tokens"] + 3 == 4
    between = drafted(3, 1, 3, steps=((4, 2), (4, 0), (4, 2)))
    assert between["drafted_per_step"] == [0, 4, 4, 4]
    # Before the last token no draft is useful, before the last but one a single one is.
    near = drafted(1, 1, limit=3)
    assert near["num_draft_tokens"] is near["num_examined_draft_tokens"] is None
    assert near["accepted_per_step"] == [0, 0, 0]


def test_a_stream_whose_events_were_merged_says_no_more_than_the_sums():
    text = Made([(0, 0), (4, 2), (4, 4), (4, 1)], 11, 20, "eos")
    merged = [Arrival(seconds=0.1, num_tokens=number) for number in (1, 8, 2)]

    assert cut(text, vllm_counts(text), merged).fields == text.expected()
    assert cut(text, vllm_counts(text, detailed=False), merged).fields == {
        **text.expected(),
        "drafted_per_step": None,
        "accepted_per_step": None,
    }


def test_a_stop_string_is_looked_for_among_the_tokens():
    spelled = {n: f"{n % 10}" for n in range(30)} | {7: "\n"}
    steps = [(0, 0), (4, 4), (4, 3), (4, 4)]
    text = Made(steps, 15, 15, "length")
    served = ServedText(
        num_tokens=15, token_ids=list(range(15)), finish_reason="length",
        counts=vllm_counts(text), arrivals=arrivals_of(text),
    )  # fmt: skip

    found = cut_text(
        served,
        max_new_tokens=15,
        stop_strings=["\n"],
        decode=lambda ids: "".join(spelled[i] for i in ids),
    )

    assert (found.num_tokens, found.finish_reason) == (8, "stop")
    # Two of the third step's three accepted tokens are before the end or are it.
    assert found.fields["accepted_per_step"] == [0, 4, 2]
    assert found.fields == Made(steps[:3], 8, 15, "stop").expected()


# ------------------------------------------------------------------ SGLang


def sglang_counts(text: Made) -> ServedCounts:
    steps = text.steps[1:]
    return ServedCounts(
        convention="sglang",
        num_spec_steps=len(steps),
        num_draft_tokens=LENGTH * len(steps),
        num_accepted_draft_tokens=sum(accepted for _, accepted in steps),
        acceptance_histogram=histogram_of(steps) if steps else None,
        num_spec_tokens=LENGTH if steps else None,
        drafts_are_computed=True,
    )


@pytest.mark.parametrize("seed", range(60))
def test_sglangs_steps_are_ours(seed):
    text = made(seed)

    streamed = cut(text, sglang_counts(text), arrivals_of(text)).fields
    whole = cut(text, sglang_counts(text)).fields

    if len(text.steps) > 1:
        assert streamed == text.expected()
    assert agrees(whole, text.expected())
    assert whole["num_spec_steps"] == len(text.steps)
    if text.limit > text.num_tokens:
        assert whole["num_accepted_draft_tokens"] is not None


# ------------------------------------------------------------------ llama.cpp


def marked(text: Made, hidden: frozenset[int] = frozenset()) -> list[Arrival]:
    """An event for each token; those hidden arrive with the next one."""
    arrivals, place, held, drafted, accepted = [], 0, 0, 0, 0
    for (more_drafted, more_accepted), length in zip(text.steps, text.pieces, strict=True):
        drafted, accepted = drafted + more_drafted, accepted + more_accepted
        for _ in range(length):
            held += 1
            if place not in hidden or place == text.num_tokens - 1:
                counts = ServedCounts(
                    convention="llamacpp",
                    num_draft_tokens=drafted,
                    num_accepted_draft_tokens=accepted,
                )
                arrivals.append(Arrival(seconds=0.1, num_tokens=held, counts=counts))
                held = 0
            place += 1
    return arrivals


@pytest.mark.parametrize("seed", range(60))
def test_llamacpps_steps_are_ours(seed):
    text = made(seed, undrafted=0.2, shortens=True)
    arrivals = marked(text)

    assert cut(text, arrivals[-1].counts, arrivals).fields == text.expected()
    assert agrees(cut(text, arrivals[-1].counts).fields, text.expected())


@pytest.mark.parametrize("seed", range(200))
def test_tokens_that_were_held_back_make_no_step_up(seed):
    text = made(seed, shortens=True)
    chance = random.Random(seed)
    hidden = frozenset(n for n in range(text.num_tokens) if chance.random() < 0.3)
    arrivals = marked(text, hidden)

    found = cut(text, arrivals[-1].counts, arrivals).fields

    # A step that nothing was seen of can be told from its neighbours only by the sums.
    if served_steps(arrivals[-1].counts, arrivals, text.num_tokens) is None:
        assert agrees(found, text.expected())
    else:
        assert found["num_spec_steps"] == len(text.steps)
        assert found["num_accepted_draft_tokens"] == text.expected()["num_accepted_draft_tokens"]


def test_without_a_stream_llamacpps_counts_beyond_a_stop_are_nobodys():
    counts = ServedCounts(
        convention="llamacpp", num_draft_tokens=4, num_accepted_draft_tokens=4
    )  # of three tokens: seen with a stop string
    stopped = ServedText(num_tokens=3, token_ids=None, finish_reason="stop", counts=counts)

    assert set(cut_text(stopped, max_new_tokens=9).fields.values()) == {None}


# ------------------------------------------------------------------ contradictions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_accepted_draft_tokens": 99}, "99 accepted of 12 drafted"),
        ({"acceptance_histogram": [9, 0, 0, 0, 0]}, "9 steps in the histogram, 3 in all"),
        ({"accepted_per_step": [2, 4]}, "6 accepted step by step, 7 in all"),
        ({"drafted_per_step": [4, 4, 3]}, "11 drafted step by step, 12 in all"),
        ({"drafted_per_step": [1, 4, 7]}, "a step accepted more than it drafted"),
        ({"num_spec_tokens": 300}, "over 256 tokens drafted in a step"),
    ],
)
def test_counts_that_contradict_themselves_fill_nothing(change, said):
    text = Made([(0, 0), (4, 2), (4, 4), (4, 1)], 11, 20, "eos")
    right = vllm_counts(text)
    wrong = ServedCounts(**{name: getattr(right, name) for name in right.__slots__} | change)

    found = cut(text, wrong, arrivals_of(text))

    assert said in found.contradiction
    assert set(found.fields.values()) == {None}
    assert contradictions(right) == []


def test_a_text_without_counts_is_cut_all_the_same():
    text = Made([(0, 0)] * 5, 5, 5, "length")

    found = cut(text, None)

    assert (found.num_tokens, found.finish_reason) == (5, "length")
    assert set(found.fields.values()) == {None}


def test_a_step_that_kept_nothing_is_not_placed_by_a_plain_pass_at_the_end():
    # Listed: one that kept nothing, one that kept two. After the prompt's pass came 1, 1, 3 and 1
    # tokens: the first may be either of two, and the last pass drafted nothing.
    counts = ServedCounts(convention="vllm", drafted_per_step=[4, 4], accepted_per_step=[0, 2])
    arrivals = [Arrival(seconds=n / 10, num_tokens=size) for n, size in enumerate([1, 1, 1, 3, 1])]

    early, late = (
        [step.num_drafted for step in served_steps(counts, arrivals, 7, late=late) or []]
        for late in (False, True)
    )

    assert early == [0, 4, 0, 4, 0]
    assert late == [0, 0, 4, 4, 0]
