"""Texts decoded with one draft length and another, written as an engine works."""

import numpy as np

from lm_eval_specfair.records import Settings

from support.synthetic_records import generation


def decoded(would_keep, length, *, limited=True):
    """Speculative decoding of a text whose tokens a drafter would have got right, or not.

    Written as an engine works, step by step, for one known text.
    """
    place, accepted, drafted = 0, [], []
    while place < len(would_keep):
        room = len(would_keep) - place - 1 if limited else length
        wanted = min(length, max(room, 0))
        kept = 0
        while kept < wanted and place + kept < len(would_keep) and would_keep[place + kept]:
            kept += 1
        accepted.append(kept)
        drafted.append(wanted)
        place += kept + 1
    return accepted, drafted


def record_of(would_keep, length, *, limited=True, **changes):
    accepted, drafted = decoded(would_keep, length, limited=limited)
    return generation(
        "demo_sw",
        0,
        num_generated_tokens=len(would_keep),
        num_spec_steps=len(accepted),
        num_draft_tokens=sum(drafted),
        num_accepted_draft_tokens=sum(accepted),
        acceptance_histogram=np.bincount(accepted, minlength=length + 1).tolist(),
        accepted_per_step=accepted,
        drafted_per_step=drafted,
        finish_reason="length" if limited else "eos",
        settings=Settings(num_speculative_tokens=length, temperature=0, top_k=None, top_p=None),
        **changes,
    )
