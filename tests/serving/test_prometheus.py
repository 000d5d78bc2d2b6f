"""Counters of `/metrics` around a request that should have been alone."""

from lm_eval_specfair.serving.prometheus import DraftCounters, read_counters

PAGE = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
vllm:generation_tokens_total{engine="0",model_name="pair"} 10.0
vllm:spec_decode_num_drafts_total{engine="0",model_name="pair"} 4.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="pair"} 8.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="pair"} 5.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 3.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 2.0
"""


def test_differences_are_the_requests_where_no_other_was_asked():
    before, after = DraftCounters(), read_counters(PAGE)

    counts = after.since(before, 10)

    assert (counts.num_spec_steps, counts.num_draft_tokens) == (4, 8)
    assert counts.num_accepted_draft_tokens == 5
    assert counts.acceptance_histogram == [1, 1, 2]
    assert after.since(before, 9) is None  # somebody else's token is among them
    assert after.since(before, 11) is None  # not all are counted yet


def test_a_page_without_such_counters_has_none():
    assert read_counters("# nothing\nvllm:generation_tokens_total 3\n") is None
    assert read_counters("vllm:spec_decode_num_drafts_total 1e999\n") is None
