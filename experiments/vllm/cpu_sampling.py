"""Whether vLLM samples from the target's distribution with drafts: mean log-probability, a table.

    VLLM_ENABLE_V1_MULTIPROCESSING=0 \
        .venv-vllm/bin/python experiments/vllm/cpu_sampling.py [--mended]

Texts of a random-weight target at temperature 1. What is drawn from p has a mean log-probability of
minus p's entropy, with any drafter and with none; and a drafter with the target's own weights
that draws its tokens has them all accepted.
"""

import argparse
import gc
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.vllm.cpu_patches import fix_dispatcher, make_sampling_exact
from lm_eval_specfair.vllm.vllm_engine import import_vllm

PROMPTS = random_prompts(40, longest=9, vocab_size=models.VOCAB_SIZE, seed=11)
LENGTH = 24


def texts(target: Path, speculation: dict[str, Any] | None) -> tuple[list[list[int]], str]:
    vllm = import_vllm()
    more = {}
    if speculation is not None:
        more = {
            "speculative_config": speculation | {"num_speculative_tokens": 3},
            "per_request_spec_decode_metrics": "detailed",
        }
    engine = vllm.LLM(
        model=str(target),
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_num_seqs=16,
        max_model_len=128,
        **more,
    )
    parameters = vllm.SamplingParams(
        temperature=1.0, max_tokens=LENGTH, ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = [each.outputs[0] for each in engine.generate(prompts, parameters, use_tqdm=False)]
    counts = [each.spec_decode_metrics for each in outputs if each.spec_decode_metrics]
    accepted = sum(sum(each.per_step_accepted) for each in counts)
    drafted = sum(each.num_draft_tokens for each in counts)
    del engine
    gc.collect()
    return [list(each.token_ids) for each in outputs], f"{accepted} / {drafted}"


@torch.no_grad()
def surprise(found: list[list[int]]) -> tuple[float, float]:
    """Mean log-probability of the tokens, and minus the mean entropy that they have under p."""
    of_tokens, of_entropy = 0.0, 0.0
    for prompt, text in zip(PROMPTS, found, strict=True):
        scores = models.target()(input_ids=torch.tensor([prompt + text])).logits[0]
        log_p = scores[len(prompt) - 1 : -1].double().log_softmax(-1)
        of_tokens += float(log_p.gather(1, torch.tensor(text)[:, None]).mean())
        of_entropy += float((log_p.exp() * log_p).sum(-1).mean())
    return of_tokens / len(found), of_entropy / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mended", action="store_true", help="with this package's mending")
    given = parser.parse_args()
    fix_dispatcher()
    if given.mended:
        make_sampling_exact()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models.target().save_pretrained(Path(folder) / "target")
        models.near_drafter().save_pretrained(Path(folder) / "near")
        for drafter, method in (
            ("none", None),
            ("the target's weights", "greedy"),
            ("the target's weights", "probabilistic"),
            ("near", "greedy"),
            ("near", "probabilistic"),
        ):
            speculation = None
            if method is not None:
                name = "near" if drafter == "near" else "target"
                speculation = {
                    "method": "draft_model",
                    "model": str(Path(folder) / name),
                    "draft_sample_method": method,
                }
            found, kept = texts(Path(folder) / "target", speculation)
            ((_, commonest),) = Counter(token for text in found for token in text).most_common(1)
            share = commonest / (LENGTH * len(found))
            rows.append((drafter, method, *surprise(found), share, kept))
    headers = ("drafter", "drafts", "mean log p of tokens", "expected (-entropy)")
    headers += ("share of the commonest token", "accepted / drafted")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
