"""Any pattern of kept drafts, in any batch: the text is the target's, the counts the script's."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import AskSettings
from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend
from lm_eval_specfair.conformance.checks.common import asks, script
from lm_eval_specfair.conformance.checks.rollback import PROMPTS
from lm_eval_specfair.conformance.reference import greedy_text
from lm_eval_specfair.conformance.script import expected_counts

LONGEST = 18


@settings(deadline=None, max_examples=25)
@given(data=st.data(), cap=st.integers(1, 6), batch_size=st.integers(1, 4), resumes=st.booleans())
def test_any_ragged_pattern_gives_the_greedy_text_and_its_counts(data, cap, batch_size, resumes):
    model = models.target()
    pattern = st.lists(st.integers(0, cap), min_size=1, max_size=6)
    patterns = [data.draw(pattern) for _ in PROMPTS]
    lengths = [data.draw(st.integers(1, LONGEST)) for _ in PROMPTS]
    drafts = script(model, PROMPTS, LONGEST, patterns, resumes=resumes)
    requests = asks(PROMPTS, lengths)
    answers = SpecfairBackend().decode(
        model, drafts, requests, AskSettings(num_speculative_tokens=cap, batch_size=batch_size)
    )
    for ask, answer in zip(requests, answers, strict=True):
        expected = greedy_text(model, ask.prompt, LONGEST)[: ask.max_new_tokens]
        assert tuple(answer.token_ids) == expected
        drafted, accepted = expected_counts(drafts, ask.prompt, ask.max_new_tokens, cap)
        assert answer.counts.drafted == drafted
        assert answer.counts.accepted == accepted
        assert len(answer.token_ids) == sum(accepted) + len(accepted)
        met = sum(a < d for a, d in zip(accepted, drafted, strict=True))
        assert answer.counts.examined == sum(accepted) + met
