"""The steps of a greedy text, worked out from the drafter's own passes over it."""

import torch


def expected_steps(drafter, prompt, text, limit, *, gamma, first_is_prefill):
    """Drafted and accepted tokens of each step, from where the drafter's argmax is the text's."""
    with torch.no_grad():
        best = drafter(input_ids=torch.tensor([[*prompt, *text]])).logits[0].argmax(-1)
    right = [int(best[len(prompt) + i - 1]) == token for i, token in enumerate(text)]
    drafted, accepted, place = ([0], [0], 1) if first_is_prefill else ([], [], 0)
    while place < len(text):
        wanted = min(gamma, limit - place - 1)
        kept = 0
        while kept < wanted and place + kept < len(text) and right[place + kept]:
            kept += 1
        drafted.append(wanted)
        accepted.append(kept)
        place += kept + 1
    return drafted, accepted
