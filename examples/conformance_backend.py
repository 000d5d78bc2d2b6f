"""A decoder of your own under the conformance suite: textbook greedy speculation, without a cache.

PYTHONPATH=examples specfair conformance --backend conformance_backend:TextbookBackend
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lm_eval_specfair.conformance.adapter import (
    Answer,
    AnswerCounts,
    Ask,
    AskSettings,
    Capability,
    Drafting,
    RefusedError,
)
from lm_eval_specfair.conformance.script import Script


class TextbookBackend:
    """Drafts are kept as long as they are the target's most likely tokens."""

    name = "textbook"
    # Checks that need more than this are reported as not applicable.
    capabilities = frozenset({Capability.SCRIPTED, Capability.COUNTS})
    num_samples = 0

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def decode(
        self, target: PreTrainedModel, drafter: Drafting, asks: Sequence[Ask], settings: AskSettings
    ) -> list[Answer]:
        if settings.temperature > 0:
            raise RefusedError("it decodes greedily only")
        length = settings.num_speculative_tokens
        return [_decode(target, drafter, ask, length) for ask in asks]


def _decode(target: PreTrainedModel, drafter: Drafting, ask: Ask, length: int) -> Answer:
    text: list[int] = []
    drafted: list[int] = []
    accepted: list[int] = []
    while len(text) < ask.max_new_tokens and not set(text) & set(ask.eos_token_ids):
        # One place is left for the token that the target adds.
        num_drafts = min(length, ask.max_new_tokens - len(text) - 1)
        drafts = _drafts(drafter, ask.prompt, text, num_drafts, step=len(drafted))
        verified = _most_likely(target, [*ask.prompt, *text, *drafts])[-len(drafts) - 1 :]
        kept = 0
        while kept < len(drafts) and drafts[kept] == verified[kept]:
            kept += 1
        step = verified[: kept + 1]
        ends = [place for place, token in enumerate(step) if token in ask.eos_token_ids]
        if ends:
            step = step[: ends[0] + 1]
        text += step
        drafted.append(len(drafts))
        accepted.append(min(kept, len(step)))
    return Answer(token_ids=text, counts=AnswerCounts(drafted=drafted, accepted=accepted))


def _drafts(
    drafter: Drafting, prompt: Sequence[int], text: Sequence[int], num_drafts: int, *, step: int
) -> list[int]:
    """The tokens proposed next."""
    if drafter is None:
        return []
    if isinstance(drafter, Script):
        return drafter.draft(prompt, len(text), num_drafts, step)
    tokens = [*prompt, *text]
    if not isinstance(drafter, str):
        for _ in range(num_drafts):
            tokens.append(_most_likely(drafter, tokens)[-1])
        return tokens[len(prompt) + len(text) :]
    # Prompt lookup: what followed the last token where it stood before.
    earlier = [place for place, token in enumerate(tokens[:-1]) if token == tokens[-1]]
    return tokens[earlier[-1] + 1 :][:num_drafts] if earlier else []


@torch.no_grad()
def _most_likely(model: PreTrainedModel, tokens: Sequence[int]) -> list[int]:
    """The most likely token after each, by one full pass."""
    inputs = torch.tensor([list(tokens)], device=model.device)
    logits = model(input_ids=inputs, use_cache=False).logits[0]
    return list(logits.argmax(-1).tolist())
