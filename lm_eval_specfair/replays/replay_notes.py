"""The closing sentences of a replay: what a user must know to trust its records."""

from collections import Counter
from collections.abc import Mapping, Sequence

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.replays.replaying import Departure
from lm_eval_specfair.replays.sources.replay_sources import TextSource

_SHOWN_DEPARTURES = 5


def replay_notes(
    sources: Sequence[TextSource],
    departures: Sequence[Departure],
    *,
    seconds: float,
    num_earlier: int,
    has_target: bool,
    in_own_tokens: Sequence[str] = (),
    are_references: bool = False,
    on_learnt: Mapping[str, int] | None = None,
) -> list[str]:
    """What was replayed, left out, mixed or uncertain, and what is not the target's own."""
    texts = [text for source in sources for text in source.texts]
    done = "were read as references" if are_references else "were replayed"
    notes = [f"{len(texts) - num_earlier} texts {done} in {seconds:.1f} s."]
    if num_earlier:
        notes.append(f"{num_earlier} more were on record from an earlier call.")
    if are_references:
        return notes
    if num_left_out := sum(source.num_left_out for source in sources):
        notes.append(f"{num_left_out} requests without a generated text are left out.")
    settings = Counter(text.sampling for text in texts)
    if len(settings) > 1:
        shown = "; ".join(f"{number} {_shown(*each)}" for each, number in settings.most_common(5))
        notes.append(
            f"The texts were made with {len(settings)} different settings ({shown}): each is "
            "replayed with its own."
        )
    if not has_target:
        notes.append(
            "Without --target the texts are taken for the target's greedy ones; nothing was held "
            "against it."
        )
    if uncertain := [text for text in texts if not text.is_certain]:
        number = sum(len(text.response) - (text.num_certain or 0) for text in uncertain)
        share = number / sum(len(text.response) for text in texts)
        notes.append(
            f"The token ids of {len(texts) - len(uncertain)} texts are certain. {len(uncertain)} "
            f"were encoded again from text and have {number} tokens ({share:.1%} of all) that the "
            "model may have split differently, or that stand before a stop string that the text "
            "does not show. Reports say by group what these may change."
        )
    notes += [
        f"Drafter {name} has another tokenizer than the texts: it was replayed on its own tokens "
        "of them, so compare bytes (accepted_bytes_share), not tokens."
        for name in in_own_tokens
    ]
    notes += [
        f"Drafter {name} was fitted on {number} of these texts: expect less of new ones "
        "(--documents leaves them out)."
        for name, number in (on_learnt or {}).items()
        if number
    ]
    notes += [
        f"{one_line(text.request_id)} is not the target's own text: token {text.place} "
        + (
            "has no chance under its distribution."
            if text.below is None
            else f"is {text.below:.2g} standard deviations of the scores below its choice."
        )
        for text in departures[:_SHOWN_DEPARTURES]
    ]
    if len(departures) > _SHOWN_DEPARTURES:
        notes.append(
            f"{len(departures)} texts in all are not the target's own; departures.jsonl names them."
        )
    return notes


def _shown(temperature: float, top_k: int | None, top_p: float | None) -> str:
    if temperature == 0:
        return "greedy"
    text = f"at temperature {temperature:g}"
    text += "" if top_k is None else f", top-k {top_k}"
    return text + ("" if top_p is None else f", top-p {top_p:g}")
