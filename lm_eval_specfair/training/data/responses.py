"""Responses that a model writes: the target (speculatively, so without loss) or the drafter itself.

Each response's randomness comes from seed and item, so the same call gives the same responses.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.items import Item

BATCH_SIZE = 16
PROMPT_TOKENS = 32
"""Tokens that a plain text gives as a prompt at most."""


def with_responses(
    items: Sequence[Item],
    writer: PreTrainedModel,
    helper: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    temperatures: Sequence[float],
    max_tokens: int,
    seed: int,
    rewrite: bool = False,
    prompt_tokens: int = PROMPT_TOKENS,
) -> list[Item]:
    """Let a model, the writer, write the responses that items lack.

    Args:
        items: One with a response keeps it, unless `rewrite`.
        writer: The model.
        helper: Drafts for it; None to decode without a drafter. The distribution is the same.
        tokenizer: Of both.
        temperatures: Taken in rotation, item by item of a group; 0 is greedy.
        max_tokens: Of a response.
        seed: Source of all randomness.
        rewrite: Also replace given responses. A plain text's beginning becomes the prompt.
        prompt_tokens: Of that beginning, at most.

    Raises:
        ConfigError: If a prompt leaves no room for a response.
    """
    missing = [n for n, item in enumerate(items) if item.response is None or rewrite]
    if not missing:
        return list(items)
    target = CausalModel(writer, role="target")
    drafter: Drafter = NoDrafter(target.device)
    if helper is not None:
        drafter = ModelDrafter(CausalModel(helper, role="drafter"), vocab_size=target.vocab_size)
    eos = frozenset([int(tokenizer.eos_token_id)])
    stopping = Stopping(max_new_tokens=max_tokens, eos_token_ids=eos)
    requests: dict[float, list[Request]] = defaultdict(list)
    prompts: dict[int, str] = {}
    turns: dict[object, int] = defaultdict(int)
    for number in missing:
        item = items[number]
        ids = tokenizer.encode(item.prompt or item.response or "", add_special_tokens=False)
        ids = ids if item.prompt else ids[:prompt_tokens]
        if not 0 < len(ids) <= target.max_length - max_tokens:
            raise ConfigError(
                f"the prompt of item {item.item!r} has {len(ids)} tokens, of which "
                f"{target.max_length} less {max_tokens} for the response fit; shorten prompts or "
                "lower --max-response-tokens"
            )
        prompts[number] = item.prompt or str(tokenizer.decode(ids))
        turn = turns[item.membership]
        turns[item.membership] += 1
        requests[temperatures[turn % len(temperatures)]].append(
            Request(request_id=str(number), prompt=ids, stopping=stopping)
        )
    written = list(items)
    with tqdm(total=len(missing), desc="Writing responses", unit="text", mininterval=2) as progress:
        for temperature, group in requests.items():
            engine = Engine(target, DecodeConfig(temperature=temperature, seed=seed))
            for done in engine.decode(group, drafter, batch_size=BATCH_SIZE):
                number = int(done.request.request_id)
                written[number] = dataclasses.replace(
                    items[number],
                    prompt=prompts[number],
                    response=str(tokenizer.decode(done.token_ids, skip_special_tokens=True)),
                    response_tokens=tuple(done.token_ids),
                )
                progress.update()
    return written
