"""What is true of the trace of every record that tells its steps."""


def assert_is_the_record(trace):
    """Every count of a trace is one of its record's, which was made by counting otherwise."""
    record, counts = trace.record, trace.counts()
    assert counts.get("kept", 0) == record.num_accepted_draft_tokens
    assert counts.get("thrown_away", 0) == (
        record.num_draft_tokens - record.num_accepted_draft_tokens
    )
    examined = record.num_examined_draft_tokens
    assert counts.get("replaced", 0) == examined - record.num_accepted_draft_tokens
    assert len(trace.steps) == record.num_spec_steps
    assert len(trace.fates) == len(trace.tokens) == record.num_generated_tokens
    assert [step.end - step.begin for step in trace.steps[:-1]] == [
        accepted + 1 for accepted in record.accepted_per_step[:-1]
    ]
    if record.discarded_token_ids is not None:
        met = record.num_examined_draft_tokens - record.num_accepted_draft_tokens
        first = [step.thrown_away[0] for step in trace.steps if step.thrown_away]
        assert record.rejected_token_ids == first[:met]
        assert [step.thrown_away for step in trace.steps] == record.discarded_token_ids
    known = [overlap for overlap in trace.overlaps if overlap is not None]
    if record.overlap_per_position is not None:
        assert known == record.overlap_per_position
