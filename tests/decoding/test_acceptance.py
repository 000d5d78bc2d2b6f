"""The acceptance rules against the law that they promise, worked out without drawing."""

import itertools
import math
import operator
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.acceptance import (
    accept_block,
    accept_greedy,
    accept_sampled,
    block_chances,
    draw,
    log_distribution,
)

JUST_BELOW_ONE = 1 - 2**-53
NOTHING = -torch.inf


def logs(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def midpoints(number: int) -> torch.Tensor:
    """Uniform numbers without chance: the middles of equal shares of [0, 1)."""
    return (torch.arange(number, dtype=torch.float64) + 0.5) / number


def shares(tokens: torch.Tensor, vocab: int) -> torch.Tensor:
    return torch.bincount(tokens, minlength=vocab).double() / len(tokens)


@st.composite
def weights(draw_value, *, size: int | None = None):
    size = size or draw_value(st.integers(1, 30))
    weight = st.one_of(st.just(0.0), st.floats(1e-12, 1e12))
    values = draw_value(st.lists(weight, min_size=size, max_size=size).filter(any))
    return torch.tensor(values, dtype=torch.float64)


uniform_numbers = st.one_of(
    st.sampled_from([0.0, 0.5, JUST_BELOW_ONE]), st.floats(0, 1, exclude_max=True)
)


# draw


@settings(deadline=None)
@given(weights(), uniform_numbers)
def test_a_token_without_weight_is_never_drawn(values, uniform):
    token = draw(values[None], torch.tensor([uniform]))
    assert values[token] > 0


@settings(deadline=None)
@given(weights())
def test_the_largest_uniform_number_draws_the_last_token_that_has_weight(values):
    token = draw(values[None], torch.tensor([JUST_BELOW_ONE], dtype=torch.float64))
    # The last ones may be too light to be told from nothing beside the others.
    last = int(values.nonzero()[-1])
    assert token == last or values[token + 1 :].sum() <= values.sum() * 1e-15


def test_the_smallest_uniform_number_draws_the_first_token_that_has_weight():
    assert draw(torch.tensor([[0.0, 0.0, 3.0, 1.0]]), torch.zeros(1)).tolist() == [2]


def test_a_uniform_number_on_a_boundary_belongs_to_the_next_token():
    values = torch.tensor([[1.0, 0.0, 1.0, 2.0]]).expand(3, -1)
    assert draw(values, torch.tensor([0.25, 0.5, 0.75])).tolist() == [2, 3, 3]


def test_tokens_are_drawn_as_often_as_their_weights_say():
    values = torch.tensor([3.0, 0.0, 1.0, 4.0])  # not normalised
    tokens = draw(values.expand(8_000, -1), midpoints(8_000))
    assert shares(tokens, 4).tolist() == [3 / 8, 0, 1 / 8, 4 / 8]


def test_rows_are_drawn_by_their_own_numbers():
    values = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert draw(values, torch.tensor([0.2, 0.7, 0.2])).tolist() == [0, 1, 1]


# accept_sampled


def law_of_first_token(p: torch.Tensor, q: torch.Tensor, number: int = 2_000) -> torch.Tensor:
    """The law of a step's first token when q drafts one and the rule decides, through the rule.

    The drafted token is enumerated; the chance to keep it and the law of what replaces it are each
    read off a grid of uniform numbers.
    """
    vocab = len(p)
    target = torch.stack([p, p]).expand(number, -1, -1)
    law = torch.zeros(vocab, dtype=torch.float64)
    grid, middle = midpoints(number), torch.full((number,), 0.5, dtype=torch.float64)
    for token in range(vocab):
        if q[token] == NOTHING:
            continue
        given_by = {
            "draft_tokens": torch.full((number, 1), token),
            "num_drafted": torch.ones(number, dtype=torch.long),
            "draft_logprobs": q.expand(number, 1, -1),
            "target_logprobs": target,
        }
        verdict = accept_sampled(**given_by, accept_uniforms=grid[:, None], next_uniforms=middle)
        chance = verdict.num_accepted.double().mean()
        share = q[token].exp()
        law[token] += share * chance
        rejecting = torch.full((number, 1), JUST_BELOW_ONE, dtype=torch.float64)
        verdict = accept_sampled(**given_by, accept_uniforms=rejecting, next_uniforms=grid)
        if chance < 1 and not verdict.num_accepted.any():
            law += share * (1 - chance) * shares(verdict.next_token, vocab)
    return law


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.6, 0.3, 0.1], [0.2, 0.2, 0.6]),
        ([0.25, 0.25, 0.5], [0.25, 0.25, 0.5]),
        ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]),
        ([0.0, 0.7, 0.3], [0.5, 0.5, 0.0]),
        ([1.0, 0.0, 0.0], [0.3, 0.3, 0.4]),
        ([0.3, 0.3, 0.4], [1.0, 0.0, 0.0]),
        ([0.05, 0.05, 0.1, 0.2, 0.6], [0.6, 0.2, 0.1, 0.05, 0.05]),
    ],
    ids=["overlapping", "equal", "disjoint", "holes", "certain p", "certain q", "reversed"],
)
def test_kept_and_recovered_tokens_together_follow_the_target(p, q):
    # q * accept + (1 - sum(q * accept)) * residual = p
    law = law_of_first_token(logs([p])[0], logs([q])[0])
    assert law.tolist() == pytest.approx(p, abs=2e-3)


@settings(deadline=None, max_examples=20)
@given(weights(size=5), weights(size=5))
def test_any_pair_of_distributions_gives_the_target_law(p, q):
    p, q = p / p.sum(), q / q.sum()
    law = law_of_first_token(p.log(), q.log())
    assert law.tolist() == pytest.approx(p.tolist(), abs=5e-3)


def block_law(p: torch.Tensor, q: torch.Tensor, grid: int, length: int) -> dict:
    """The law of a step's tokens, by enumerating drafts and a grid of all uniform numbers.

    p: (vocab, vocab), the law behind each token; the text before has token 0 at its end. So is q.
    Steps that yield fewer than `length` tokens are filled up by independent draws from p.
    """
    vocab = len(p)
    numbers = midpoints(grid)
    uniforms = torch.cartesian_prod(numbers, numbers, numbers)
    law: dict[tuple[int, ...], float] = {}
    for first in range(vocab):
        for second in range(vocab):
            weight = float(q[0, first] * q[first, second])
            rows = len(uniforms)
            verdict = accept_sampled(
                draft_tokens=torch.tensor([[first, second]]).expand(rows, -1),
                num_drafted=torch.full((rows,), 2),
                draft_logprobs=torch.stack([q[0], q[first]]).log().expand(rows, -1, -1),
                target_logprobs=torch.stack([p[0], p[first], p[second]]).log().expand(rows, -1, -1),
                accept_uniforms=uniforms[:, :2],
                next_uniforms=uniforms[:, 2],
            )
            outcomes = torch.stack([verdict.num_accepted, verdict.next_token], 1)
            for (kept, following), count in zip(
                *(x.tolist() for x in outcomes.unique(dim=0, return_counts=True)), strict=True
            ):
                text = (*(first, second)[:kept], following)
                texts = {text: weight * count / rows}
                while len(next(iter(texts))) < length:
                    texts = {
                        (*t, x): w * float(p[t[-1], x])
                        for t, w in texts.items()
                        for x in range(vocab)
                    }
                for t, w in texts.items():
                    law[t] = law.get(t, 0.0) + w
    return law


def test_the_joint_law_of_a_whole_block_is_the_targets():
    # Multiples of 1/20, so that a grid of 20 numbers is exact where p / q is one as well.
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4]], dtype=torch.float64)
    q = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.4, 0.1], [0.3, 0.4, 0.3]], dtype=torch.float64)
    law = block_law(p, q, grid=40, length=3)
    assert sum(law.values()) == pytest.approx(1)
    for text, share in law.items():
        a, b, c = text
        assert share == pytest.approx(float(p[0, a] * p[a, b] * p[b, c]), abs=4e-3), text


def test_a_drafter_without_distributions_counts_as_certain():
    # Kept with chance p(x), replaced from p without x.
    p, token, number = [0.5, 0.3, 0.2], 1, 1_000
    arguments = {
        "draft_tokens": torch.full((number, 1), token),
        "num_drafted": torch.ones(number, dtype=torch.long),
        "target_logprobs": logs([p, p]).expand(number, -1, -1),
        "accept_uniforms": midpoints(number)[:, None],
        "next_uniforms": midpoints(number),
    }
    verdict = accept_sampled(**arguments, draft_logprobs=None)
    assert verdict.num_accepted.double().mean().item() == pytest.approx(0.3)

    certain = logs([[0.0, 1.0, 0.0]]).expand(number, 1, -1)
    same = accept_sampled(**arguments, draft_logprobs=certain)
    assert torch.equal(verdict.num_accepted, same.num_accepted)
    assert torch.equal(verdict.next_token, same.next_token)

    arguments["accept_uniforms"] = torch.full((number, 1), 0.9)
    recovered = accept_sampled(**arguments, draft_logprobs=None)
    assert shares(recovered.next_token, 3).tolist() == pytest.approx([5 / 7, 0, 2 / 7], abs=2e-3)


def test_equal_distributions_are_always_accepted():
    p = torch.randn(50, 4, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    drafted = torch.randint(9, (50, 3), generator=torch.Generator().manual_seed(1))
    largest = torch.full((50, 3), JUST_BELOW_ONE, dtype=torch.float64)
    verdict = accept_sampled(
        drafted, torch.full((50,), 3), p[:, :3], p, largest, torch.full((50,), 0.5)
    )
    assert verdict.num_accepted.tolist() == [3] * 50


def test_disjoint_distributions_are_never_accepted():
    p, q = logs([[0.5, 0.5, 0.0, 0.0]] * 2), logs([[0.0, 0.0, 0.5, 0.5]])
    verdict = accept_sampled(
        torch.tensor([[2], [3]]),
        torch.ones(2, dtype=torch.long),
        q.expand(2, 1, -1),
        p.expand(2, 2, -1),
        torch.zeros(2, 1),  # the smallest number there is
        torch.tensor([0.2, 0.8]),
    )
    assert verdict.num_accepted.tolist() == [0, 0]
    assert verdict.next_token.tolist() == [0, 1]


def test_where_rounding_leaves_no_residual_the_target_itself_is_drawn_from():
    # q is p but for its last digits, and bigger everywhere: max(p - q, 0) is 0 throughout.
    p = logs([[0.5, 0.25, 0.25]])
    q = p + 1e-15
    verdict = accept_sampled(
        torch.tensor([[1]]).expand(3, -1),
        torch.ones(3, dtype=torch.long),
        q.expand(3, 1, -1),
        p.expand(3, 2, -1),
        torch.full((3, 1), JUST_BELOW_ONE, dtype=torch.float64),
        torch.tensor([0.4, 0.6, 0.9]),
    )
    assert verdict.num_accepted.tolist() == [0, 0, 0]
    assert verdict.next_token.tolist() == [0, 1, 2]


def test_padding_behind_what_a_row_drafted_is_never_accepted():
    # Row 0 drafted nothing, row 1 one token, row 2 two; token 1 is certain everywhere.
    sure = logs([[0.0, 1.0, 0.0]])
    drafted = torch.ones(3, 2, dtype=torch.long)
    num_drafted = torch.tensor([0, 1, 2])
    p = sure.expand(3, 3, -1)
    numbers = torch.full((3, 2), 0.5), torch.full((3,), 0.5)
    for q in (sure.expand(3, 2, -1), None):
        verdict = accept_sampled(drafted, num_drafted, q, p, *numbers)
        assert verdict.num_accepted.tolist() == [0, 1, 2]
        assert verdict.next_token.tolist() == [1, 1, 1]
    assert accept_greedy(drafted, num_drafted, p).num_accepted.tolist() == [0, 1, 2]


def test_the_token_behind_full_acceptance_is_drawn_from_p_not_from_a_residual():
    # All rows accept all they drafted; the padding's q must not be subtracted from p.
    sure, half = logs([[0.0, 1.0, 0.0]])[0], logs([[0.5, 0.0, 0.5]])[0]
    p = torch.stack([torch.stack([half, half, half]), torch.stack([sure, half, half])])
    q = sure.expand(3, 2, -1)
    p = torch.cat([p, torch.stack([sure, half, half])[None]])
    verdict = accept_sampled(
        torch.ones(3, 2, dtype=torch.long),
        torch.tensor([0, 1, 2]),  # row 2 has its second token rejected
        q,
        p,
        torch.full((3, 2), 0.5),
        torch.tensor([0.2, 0.8, 0.8]),
    )
    assert verdict.num_accepted.tolist() == [0, 1, 1]
    assert verdict.next_token.tolist() == [0, 2, 2]


def test_a_batch_in_which_nobody_drafts_is_drawn_from_the_target():
    p = logs([[0.5, 0.5], [0.1, 0.9]])[:, None]
    empty = torch.zeros(2, 0, dtype=torch.long)
    verdict = accept_sampled(
        empty,
        torch.zeros(2, dtype=torch.long),
        None,
        p,
        torch.zeros(2, 0),
        torch.tensor([0.3, 0.3]),
    )
    assert verdict.num_accepted.tolist() == [0, 0]
    assert verdict.next_token.tolist() == [0, 1]


def test_a_rows_outcome_depends_on_its_own_numbers_alone():
    generator = torch.Generator().manual_seed(0)
    rows, width, vocab = 40, 3, 6
    p = torch.randn(rows, width + 1, vocab, generator=generator).mul(2).log_softmax(-1)
    q = torch.randn(rows, width, vocab, generator=generator).mul(2).log_softmax(-1)
    drafted = torch.randint(vocab, (rows, width), generator=generator)
    num_drafted = torch.randint(width + 1, (rows,), generator=generator)
    keep, follow = (
        torch.rand(rows, width, generator=generator),
        torch.rand(rows, generator=generator),
    )
    together = accept_sampled(drafted, num_drafted, q, p, keep, follow)
    assert len(set(together.num_accepted.tolist())) == width + 1
    for row in range(rows):
        one = slice(row, row + 1)
        alone = accept_sampled(
            drafted[one], num_drafted[one], q[one], p[one], keep[one], follow[one]
        )
        assert alone.num_accepted == together.num_accepted[row]
        assert alone.next_token == together.next_token[row]


# accept_block


def markov(seed: int, vocab: int, *, sharpness: float = 1.5) -> torch.Tensor:
    """The law behind each token, shape (vocab, vocab); no two are the same."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
    return (sharpness * scores).softmax(-1)


def judged(
    p: torch.Tensor, q: torch.Tensor, draft: tuple[int, ...]
) -> dict[str, torch.Tensor | None]:
    """Arguments of a rule for one draft of a drafter q behind token 0."""
    before = [0, *draft]
    return {
        "draft_tokens": torch.tensor([draft]),
        "num_drafted": torch.tensor([len(draft)]),
        "draft_logprobs": torch.stack([q[token] for token in before[:-1]]).log()[None],
        "target_logprobs": torch.stack([p[token] for token in before]).log()[None],
    }


def drafts_of(q: torch.Tensor, length: int) -> Iterator[tuple[tuple[int, ...], float]]:
    for draft in itertools.product(range(len(q)), repeat=length):
        chance = math.prod(float(q[a, b]) for a, b in itertools.pairwise((0, *draft)))
        yield draft, chance


def lengths_kept(chances: list[float]) -> list[float]:
    """The law of the longest prefix that is accepted by its own number, 0 tokens included."""
    law, none_longer = [0.0] * (len(chances) + 1), 1.0
    for length in range(len(chances), 0, -1):
        law[length] = none_longer * chances[length - 1]
        none_longer *= 1 - chances[length - 1]
    law[0] = none_longer
    return law


def law_of_blocks(p: torch.Tensor, q: torch.Tensor, length: int) -> dict[tuple[int, ...], float]:
    """The law of the first `length + 1` tokens: block verification, then the target alone."""
    law = dict.fromkeys(itertools.product(range(len(p)), repeat=length + 1), 0.0)
    for draft, chance in drafts_of(q, length):
        weights, chances = block_chances(**judged(p, q, draft))
        for kept, share in enumerate(lengths_kept(chances[0].tolist())):
            last = (0, *draft)[kept]
            following = p[last]
            if kept < length:
                following = (weights[0, kept] * p[last] - q[last]).clamp(min=0)
            if not share:
                continue
            following = following / following.sum()
            for text in law:
                if text[:kept] == draft[:kept]:
                    rest = math.prod(float(p[a, b]) for a, b in itertools.pairwise(text[kept:]))
                    law[text] += chance * share * float(following[text[kept]]) * rest
    return law


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_judging_whole_blocks_leaves_the_target_its_law(seed, length):
    p, q = markov(seed, 3), markov(100 + seed, 3)
    for text, share in law_of_blocks(p, q, length).items():
        right = math.prod(float(p[a, b]) for a, b in itertools.pairwise((0, *text)))
        assert share == pytest.approx(right, abs=1e-12), text


def test_blocks_of_tokens_that_p_or_q_forbids_leave_the_target_its_law():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.2, 0.0, 0.8]], dtype=torch.float64)
    for text, share in law_of_blocks(p, q, 3).items():
        right = math.prod(float(p[a, b]) for a, b in itertools.pairwise((0, *text)))
        assert share == pytest.approx(right, abs=1e-12), text


def mean_kept(p: torch.Tensor, q: torch.Tensor, length: int) -> tuple[float, float]:
    """Drafted tokens that a step keeps on average: judged as a block, and token by token."""
    block = token = 0.0
    for draft, chance in drafts_of(q, length):
        _, chances = block_chances(**judged(p, q, draft))
        block += chance * sum(
            k * share for k, share in enumerate(lengths_kept(chances[0].tolist()))
        )
        path = list(itertools.pairwise((0, *draft)))
        kept = itertools.accumulate((min(1, float(p[e] / q[e])) for e in path), operator.mul)
        token += chance * sum(kept)
    return block, token


@pytest.mark.parametrize("seed", range(12))
def test_a_block_keeps_at_least_as_many_tokens_as_its_tokens_one_by_one(seed):
    p, q = markov(seed, 3, sharpness=1), markov(50 + seed, 3, sharpness=1)
    block, token = mean_kept(p, q, 3)
    assert token < block < 3


def test_the_gain_of_a_block_is_that_of_the_published_example():
    # p(a) = 1/3, q(a) = 2/3 everywhere, two drafts: 10/9 tokens one by one, 11/9 as a block.
    p = torch.tensor([[1 / 3, 2 / 3]] * 2, dtype=torch.float64)
    block, token = mean_kept(p, p.flip(1), 2)
    assert (block, token) == (pytest.approx(11 / 9), pytest.approx(10 / 9))


def test_the_block_rule_draws_what_its_chances_say():
    # Rows of unlike lengths in one batch, each with its own numbers. The draft is one whose weights
    # are far from 1, and unlike the chances of its prefixes.
    p, q, number = markov(3, 3), markov(4, 3), 100_000
    arguments = judged(p, q, (2, 1, 0))
    weights, chances = block_chances(**arguments)
    generator = torch.Generator().manual_seed(0)
    for width in (0, 1, 2, 3):
        rows = {name: value.expand(number, *value.shape[1:]) for name, value in arguments.items()}
        # Every other row drafts as many tokens as there are: what another has must not matter.
        rows["num_drafted"] = torch.tensor([width, 3]).repeat(number // 2)
        numbers = (
            torch.rand(number, 3, generator=generator, dtype=torch.float64),
            torch.rand(number, generator=generator, dtype=torch.float64),
        )
        verdict = accept_block(**rows, accept_uniforms=numbers[0], next_uniforms=numbers[1])
        own = chances[0].tolist()[:width]
        if 0 < width < 3:
            own[-1] = float(weights[0, width])
        law = lengths_kept(own)
        for kept in range(width + 1):
            rows_here = verdict.num_accepted[::2] == kept
            assert rows_here.double().mean() == pytest.approx(law[kept], abs=0.008)
            last = (0, 2, 1, 0)[kept]
            following = p[last]
            if kept < width:
                following = (weights[0, kept] * p[last] - q[last]).clamp(min=0)
            if rows_here.sum() > 1_000:
                found = shares(verdict.next_token[::2][rows_here], 3)
                assert found.tolist() == pytest.approx(
                    (following / following.sum()).tolist(), abs=0.06
                )


def test_a_certain_draft_is_kept_as_often_as_a_block_as_token_by_token():
    p = markov(3, 4)
    arguments = judged(p, p, (1, 2, 3)) | {"draft_logprobs": None}
    _, chances = block_chances(**arguments)
    own = [float(p[e]) for e in itertools.pairwise((0, 1, 2, 3))]
    mean = sum(k * share for k, share in enumerate(lengths_kept(chances[0].tolist())))
    assert mean == pytest.approx(sum(itertools.accumulate(own, operator.mul)))


def test_equal_distributions_are_always_accepted_as_a_block():
    p = torch.randn(50, 4, 9, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    drafted = torch.randint(9, (50, 3), generator=torch.Generator().manual_seed(1))
    largest = torch.full((50, 3), JUST_BELOW_ONE, dtype=torch.float64)
    verdict = accept_block(
        drafted, torch.full((50,), 3), p[:, :3], p, largest, torch.full((50,), 0.5)
    )
    assert verdict.num_accepted.tolist() == [3] * 50


# accept_greedy


def test_greedy_keeps_tokens_up_to_the_first_that_is_not_the_likeliest():
    def scores(*best: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(best), 6).float()

    verdict = accept_greedy(
        torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]]),
        torch.tensor([3, 3, 3, 3]),
        torch.stack(
            [scores(1, 2, 3, 4), scores(1, 2, 5, 4), scores(5, 2, 3, 4), scores(1, 0, 3, 4)]
        ),
    )
    assert verdict.num_accepted.tolist() == [3, 2, 0, 1]
    assert verdict.next_token.tolist() == [4, 5, 5, 0]


# log_distribution


def test_temperature_divides_the_scores():
    scores = torch.tensor([[1.0, 2.0, 4.0]])
    for temperature in (0.5, 1, 2.0):
        got = log_distribution(scores, DecodeConfig(temperature=temperature))
        assert torch.allclose(got, (scores / temperature).log_softmax(-1))


def test_top_k_and_top_p_keep_what_a_worked_example_keeps():
    # Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
    scores = logs([[0.1, 0.4, 0.2, 0.3]])

    def kept(**options) -> list[float]:
        config = DecodeConfig(temperature=1, **options)
        return log_distribution(scores, config).exp()[0].tolist()

    assert kept() == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert kept(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(top_k=9) == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert kept(top_k=1) == pytest.approx([0, 1, 0, 0])
    assert kept(top_p=0.65) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert kept(top_p=0.75) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9])
    assert kept(top_p=0.01) == pytest.approx([0, 1, 0, 0])
    assert kept(top_p=1) == pytest.approx([0.1, 0.4, 0.2, 0.3])
    # Top-k comes first: of 4/9, 3/9, 2/9 the first two hold 7/9 of the mass.
    assert kept(top_k=3, top_p=0.75) == pytest.approx([0, 4 / 7, 0, 3 / 7])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 10},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 0.5, "top_k": 40, "top_p": 0.6},
    ],
    ids=str,
)
def test_the_distribution_is_the_one_that_generate_of_transformers_draws_from(options):
    model = llama(3)
    prompt = torch.tensor([[5, 6, 7, 8]])
    defaults = {"top_k": 0, "top_p": 1.0}
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        max_new_tokens=3,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **(defaults | options),
    )
    for raw, used in zip(output.logits, output.scores, strict=True):
        got = log_distribution(raw.float(), DecodeConfig(**options))
        assert torch.allclose(got.exp(), used.softmax(-1), atol=1e-6)


def test_rows_and_positions_are_processed_one_by_one():
    scores = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0))
    config = DecodeConfig(temperature=0.7, top_k=9, top_p=0.8)
    together = log_distribution(scores, config)
    assert together.shape == scores.shape
    assert torch.allclose(together[1, 2], log_distribution(scores[1, 2], config))
