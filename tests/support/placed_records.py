"""Records of texts decoded step by step, with tokens kept and thrown away, whose truth is known."""

from collections.abc import Callable

import numpy as np

from lm_eval_specfair.records import Record, Settings

GAMMA = 4


def decoded(
    language: str,
    doc: int,
    chance: Callable[[int], float],
    generator: np.random.Generator,
    *,
    length: int = 60,
    prompt: int = 10,
    by_eos: bool = False,
) -> Record:
    """A text decoded with drafts of four; `chance(place)` is that of each draft to be kept.

    `by_eos` lets it end by a token that may have been drafted, with others behind it.
    """
    accepted, drafted, rejected, place = [], [], [], 0
    tokens = generator.integers(100, 110, size=length).tolist()
    examined = 0
    while place < length:
        wanted = GAMMA if by_eos else min(GAMMA, length - place - 1)
        kept = 0
        while kept < wanted and place + kept < length and generator.random() < chance(place + kept):
            kept += 1
        accepted.append(kept)
        drafted.append(wanted)
        is_met = kept < wanted and place + kept < length
        examined += kept + is_met
        rejected.append([200 + tokens[place + kept]] if is_met else [])
        place += kept + 1
    return Record(
        request_id=f"{language}/{doc}",
        task=f"specfair_demo_{language}",
        doc_id=doc,
        request_type="generate_until",
        group_fields={},
        num_prompt_tokens=prompt,
        num_generated_tokens=length,
        num_draft_tokens=sum(drafted),
        num_accepted_draft_tokens=sum(accepted),
        num_examined_draft_tokens=examined,
        accepted_per_step=accepted,
        drafted_per_step=drafted,
        discarded_token_ids=rejected,
        generated_token_ids=tokens,
        settings=Settings(num_speculative_tokens=GAMMA, temperature=0, top_k=None, top_p=None),
    )
