"""What is certain of a replayed text whose token ids are not all those that the model emitted."""

from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.replays.known_text import KnownText


def certain_counts(text: KnownText, counters: RequestCounters) -> dict[str, int]:
    """Counts of the steps before the first uncertain token, and of the tokens from there on.

    A step is certain where all tokens that it emits are.
    """
    length = len(text.response)
    certain = length if text.num_certain is None else text.num_certain
    steps = accepted = place = 0
    for kept in counters.accepted_per_step:
        if min(place + kept + 1, length + text.num_hidden) > certain:
            break
        steps, accepted, place = steps + 1, accepted + kept, place + kept + 1
    place = min(place, length)
    if place == length and not text.num_hidden:
        examined = counters.num_examined
    else:  # every step before the end examined what it kept, and its rejected token if it had one
        pairs = zip(counters.accepted_per_step[:steps], counters.drafted_per_step, strict=False)
        examined = accepted + sum(kept < drafted for kept, drafted in pairs)
    return {
        "num_uncertain_tokens": length - place + text.num_hidden,
        "certain_spec_steps": steps,
        "certain_accepted_draft_tokens": accepted,
        "certain_examined_draft_tokens": examined,
    }
