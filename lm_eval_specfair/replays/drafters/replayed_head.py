"""A head along finished texts: all of its possible drafts at once, from the target's hidden states.

A draft is examined as far as the text agrees with it. So what a step that begins at any place would
draft, token by token, is known from steps that are fed the text's own tokens: as many passes of the
head over the text as tokens are drafted, and one of the target for its hidden states.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Chain, Draft, Drafter, no_draft
from lm_eval_specfair.decoding.families.layer_outputs import LayerOutputs
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_drafter import Eagle3Chain
from lm_eval_specfair.replays.drafters.replayed_drafter import Along
from lm_eval_specfair.replays.drafters.replayed_proposals import ProposalsAlong
from lm_eval_specfair.replays.passes.text_batches import TextBatch


class ReplayedHead:
    """An EAGLE-3 head and the target that it drafts for, which reads each text once for it."""

    reader = None

    def __init__(self, head: Eagle3Head, target: PreTrainedModel, *, name: str) -> None:
        """Of a head that fits its target, which messages call by this name.

        Raises:
            ConfigError: If the target's hidden states cannot be had.
        """
        self._head, self._target = head, target
        self._outputs = LayerOutputs(target, head.config.feature_layers, name=name)

    def along(self, batch: TextBatch, lengths: Sequence[int], *, measures: bool) -> Along:
        steps = self._unrolled(batch, max(lengths))
        return ProposalsAlong(
            lambda number: TextHead(self._head, [step[number] for step in steps]),
            batch.texts, lengths, measures=measures, knows_all_discarded=False,
        )  # fmt: skip

    @torch.inference_mode()
    def _unrolled(self, batch: TextBatch, num_steps: int) -> list[Tensor]:
        """What the head's steps score, see `Eagle3Head.forward`."""
        rows = [[*text.prompt, *text.response] for text in batch.texts]
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        tokens = padded.to(self._target.device)
        with self._outputs.hooked():
            self._target.base_model(input_ids=tokens, use_cache=False)
        features = self._outputs.taken(tokens.device)
        steps: list[Tensor] = self._head(tokens, features, min(num_steps, width - 1))
        return steps


class TextHead(Drafter):
    """Drafts along one text, in row 0: a chain that is fed the text's own tokens."""

    def __init__(self, head: Eagle3Head, steps: Sequence[Tensor]) -> None:
        """With what each step scores at each place, shape (places, hidden)."""
        self._chain, self._steps = Eagle3Chain(head), steps
        self.max_length = self._chain.max_length
        self._last: tuple[int, int, Tensor] | None = None

    def propose(
        self,
        histories: Sequence[list[int]],
        lengths: list[int],
        config: DecodeConfig,
        uniforms: Tensor | None,
    ) -> Draft:
        """The chain; what follows a token that is not the text's is not what would be drafted."""
        place, [wanted] = len(histories[0]) - 2, lengths
        if place < 0 or not wanted:
            return no_draft(1, self._chain.device)
        scores = self._scores(place, wanted)
        chain = Chain(config, uniforms)
        for row in scores:
            chain.add(row[None])
        return chain.draft([wanted])

    @torch.inference_mode()
    def _scores(self, place: int, wanted: int) -> Tensor:
        if self._last is None or self._last[:2] != (place, wanted):
            known = [step[place] for step in self._steps[:wanted] if place < len(step)]
            scores = self._chain.scores(torch.stack(known))
            # Behind the text's end nothing is examined.
            missing = wanted - len(known)
            self._last = place, wanted, torch.cat([scores, scores[-1:].expand(missing, -1)])
        return self._last[2]
