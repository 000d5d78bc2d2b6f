"""Who gains from block verification: tokens a step by language, by both rules, on the same drafts.

    python experiments/temperature/block_gain.py results/demo_batch_1 --temperatures 0.7 1.0 \
        -o results/block_verification

Decodes a run's prompts again, sampled, with each rule, and adds up in each step what either rule
keeps of its draft on average (a sum over the rule's own chances, given the draft). So the two are
compared on the same drafts, which leaves far less to chance than two decoded runs; how many tokens
each decoded is there too. Intervals are over documents, drawn together for all languages, since
translations share them.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.acceptance import Verification, block_chances
from lm_eval_specfair.decoding.completion import Request
from lm_eval_specfair.decoding.drafters import Draft, Drafter, ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTERS, EMBEDDED_TARGET, load_model
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.records.provenance import provenance
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.sources.replay_sources import read_texts

RULES = ("token", "block")
SUMS = ("tokens", "steps", "by tokens", "by blocks", "overlap", "positions")
TOKENS, ROWS, NUM_RESAMPLES = 32, 32, 2_000


class Judged(Engine):
    """An engine that adds up what either rule keeps on average, by request."""

    def __init__(self, target: CausalModel, config: DecodeConfig) -> None:
        super().__init__(target, config)
        self.kept: dict[str, np.ndarray] = {}
        self._judged: list = []

    def _step(self, rows: list, drafter: Drafter) -> None:
        self._judged = rows
        super()._step(rows, drafter)

    def _verify(
        self, draft: Draft, num_drafted: Tensor, scores: Tensor, uniforms: Tensor | None
    ) -> Verification:
        both = torch.stack(expected(draft.tokens, num_drafted, draft.scores, scores), 1).tolist()
        for row, own in zip(self._judged, both, strict=True):
            self.kept[row.request.request_id] = self.kept.get(row.request.request_id, 0) + (
                np.array(own) + 1  # and the token that follows
            )
        return super()._verify(draft, num_drafted, scores, uniforms)


def expected(
    tokens: Tensor, num_drafted: Tensor, log_q: Tensor | None, log_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Drafted tokens that each rule keeps on average, given the draft; both of shape (rows,)."""
    width = tokens.shape[1]
    if not width or log_q is None:
        nothing = torch.zeros(len(tokens), dtype=torch.float64)
        return nothing, nothing
    drafted = torch.arange(width) < num_drafted[:, None]
    ratio = (log_p[:, :width] - log_q).gather(2, tokens[..., None])[..., 0].double().exp()
    by_tokens = torch.where(drafted, ratio.clamp(max=1), 0.0).cumprod(1).sum(1)
    _, chances = block_chances(tokens, num_drafted, log_q, log_p)
    # The longest accepted prefix has at least i tokens unless all longer ones are refused.
    refused = (1 - chances.clamp(0, 1)).flip(1).cumprod(1).flip(1)
    return by_tokens, (1 - refused).sum(1)


def decoded(
    texts: Sequence[KnownText], target: CausalModel, drafter: Drafter, config: DecodeConfig
) -> dict[tuple[str, int], np.ndarray]:
    """`SUMS` by language and document."""
    of = {text.request_id: text for text in texts}
    requests = [
        Request(
            request_id=name,
            prompt=text.prompt,
            stopping=Stopping(max_new_tokens=TOKENS, eos_token_ids=frozenset({0})),
        )
        for name, text in of.items()
    ]
    engine = Judged(target, config)
    found = {}
    for done in engine.decode(requests, drafter, batch_size=ROWS):
        name, counted = done.request.request_id, done.counters
        key = str(of[name].group_fields["language"]), of[name].doc_id
        sums = [len(done.token_ids), counted.num_steps, *engine.kept[name]]
        found[key] = np.array([*sums, counted.overlap_sum, counted.num_positions], dtype=float)
    return found


def stacked(found: dict[tuple[str, int], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Languages, and the sums of all documents, (languages, documents, sums)."""
    languages = sorted({language for language, _ in found})
    documents = sorted({document for _, document in found})
    sums = np.zeros((len(languages), len(documents), len(SUMS)))
    for (language, document), own in found.items():
        sums[languages.index(language), documents.index(document)] = own
    return languages, sums


def gains(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sums (..., languages, sums): the gain of blocks in per cent, overlap, tokens a step."""
    steps = sums[..., 1]
    by_tokens, by_blocks = sums[..., 2] / steps, sums[..., 3] / steps
    return (by_blocks / by_tokens - 1) * 100, sums[..., 4] / sums[..., 5], by_tokens


def decoded_gain(rates: dict[str, tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> float:
    """What blocks gained in decoded runs, in per cent; tokens and steps by rule and document."""
    token, block = (
        float((tokens @ weights).sum() / (steps @ weights).sum())
        for tokens, steps in (rates[rule] for rule in RULES)
    )
    return (block / token - 1) * 100


def interval(values: np.ndarray, form: str = "+.2f") -> str:
    low, high = np.percentile(values, (2.5, 97.5))
    return f"[{low:{form}}, {high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="whose prompts are decoded")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 1.0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--rules", nargs="+", choices=RULES, default=RULES, help="that texts are decoded with"
    )
    parser.add_argument("--limit", type=int, help="documents")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    texts = read_texts(arguments.run, None, max_length=1 << 30, eos_token_id=None).texts
    texts = [text for text in texts if arguments.limit is None or text.doc_id < arguments.limit]
    target = CausalModel(load_model(str(EMBEDDED_TARGET), "target"))
    own = load_model(str(EMBEDDED_DRAFTERS["embedded"]), "drafter")
    drafter = ModelDrafter(CausalModel(own, role="drafter"), vocab_size=target.vocab_size)
    lines = [
        "| temperature | γ | tokens a step, token by token | gain of blocks, all requests, % "
        "| mean of languages, % | least | most | decoded: gain, all requests, % "
        "| rank correlation with acceptance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    chance = np.random.default_rng(0)
    for temperature in arguments.temperatures:
        for length in arguments.lengths:
            by_rule = {}
            for rule in arguments.rules:
                total = None
                for seed in range(arguments.seeds):
                    config = DecodeConfig(
                        num_speculative_tokens=length, temperature=temperature, seed=seed,
                        verification=rule,
                    )  # fmt: skip
                    languages, sums = stacked(decoded(texts, target, drafter, config))
                    total = sums if total is None else total + sums
                assert total is not None
                by_rule[rule] = total
            both = np.sum(list(by_rule.values()), axis=0)
            number = both.shape[1]
            drawn = [
                np.bincount(chance.integers(number, size=number), minlength=number)
                for _ in range(NUM_RESAMPLES)
            ]
            resampled = np.einsum("nd,lds->nls", np.array(drawn, dtype=float), both)
            now, overlap, by_tokens = gains(both.sum(1))
            each, overlaps, _ = gains(resampled)
            whole, _, tau = gains(both.sum((0, 1)))
            whole_each, _, _ = gains(resampled.sum(1))
            rates = {rule: (own[..., 0], own[..., 1]) for rule, own in by_rule.items()}
            gained = "not decoded"
            if len(rates) == len(RULES):
                all_of = [decoded_gain(rates, weights) for weights in drawn]
                gained = f"{decoded_gain(rates, np.ones(number)):+.2f} {interval(np.array(all_of))}"

            correlations = [
                float(stats.spearmanr(a, b).statistic) for a, b in zip(each, overlaps, strict=True)
            ]
            least, most = int(now.argmin()), int(now.argmax())
            lines.append(
                f"| {temperature:g} | {length} | {tau:.3f} | {whole:+.2f} {interval(whole_each)} "
                f"| {now.mean():+.2f} {interval(each.mean(1))} "
                f"| {languages[least]} {now[least]:+.2f} {interval(each[:, least])} "
                f"| {languages[most]} {now[most]:+.2f} {interval(each[:, most])} "
                f"| {gained} "
                f"| {stats.spearmanr(now, overlap).statistic:+.2f} "
                f"{interval(np.array(correlations))} |"
            )
            low, high = np.percentile(each, (2.5, 97.5), axis=0)
            for place, language in enumerate(languages):
                rows.append(
                    [
                        f"{temperature:g}", length, language, f"{overlap[place]:.4f}",
                        f"{by_tokens[place]:.4f}", f"{now[place]:.3f}",
                        f"{low[place]:.3f}", f"{high[place]:.3f}",
                    ]
                )  # fmt: skip
    (arguments.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (arguments.output / "by_language.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["temperature", "draft length", "language", "overlap", "tokens a step, token by token",
             "gain of blocks %", "low", "high"]
        )  # fmt: skip
        writer.writerows(rows)
    made = provenance() | {"seeds": arguments.seeds, "texts": len(texts)}
    (arguments.output / "made.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
