"""Bugs to inject into our engine, one at a time; `test_mutants` shows that the suite sees each.

Each is a patch of one function or method, as somebody might have written it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lm_eval_specfair import divergence, steps
from lm_eval_specfair.decoding import acceptance, drafters, engine, loading, models
from lm_eval_specfair.decoding.acceptance import Verification, draw
from lm_eval_specfair.decoding.cache import RaggedCache, RaggedLayer
from lm_eval_specfair.decoding.drafters import Draft, ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.families import masks
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap


@dataclass(frozen=True)
class Mutant:
    """A bug: its class, the check that must see it, what it is, and the patch."""

    number: int
    check: str
    what: str
    apply: Callable


# Wrappers of the two functions that most bugs sit in


def keep(change):
    """`Engine._keep`, with something done afterwards."""

    def patch(monkeypatch):
        original = Engine._keep

        def changed(self, row, draft, place, fault, accepted, following, *drafted):
            examined = original(self, row, draft, place, fault, accepted, following, *drafted)
            change(self, row, draft, place, accepted, drafted)
            return examined

        monkeypatch.setattr(Engine, "_keep", changed)

    return patch


def forward(change):
    """`CausalModel._forward` with changed positions or masks."""

    def patch(monkeypatch):
        original = CausalModel._forward

        def changed(self, tokens, positions, mask):
            positions, mask = change(self, tokens, positions, mask)
            return original(self, tokens, positions, mask)

        monkeypatch.setattr(CausalModel, "_forward", changed)

    return patch


def layer_rule(change):
    """The rule by which a model masks a kind of layer, changed."""

    def patch(monkeypatch):
        original = masks.at_positions

        def changed(rule, positions, num_keys):
            return original(change(rule), positions, num_keys)

        monkeypatch.setattr(masks, "at_positions", changed)

    return patch


def one_key_more(rule):
    return lambda row, head, query, key: (
        rule(row, head, query, key) | (rule(row, head, query, key + 1) & (key <= query))
    )


def other_layers_rule(monkeypatch):
    last = [lambda row, head, query, key: key <= query]

    def swap(rule):
        last.append(rule)
        return last.pop(0)

    layer_rule(swap)(monkeypatch)


def without_sinks(monkeypatch):
    original = CausalModel._forward

    def forgetful(self, *given):
        sinks = {
            module: module.sinks for module in self._model.modules() if hasattr(module, "sinks")
        }
        for module, kept in sinks.items():
            module.sinks = torch.nn.Parameter(torch.full_like(kept, -1e4), requires_grad=False)
        try:
            return original(self, *given)
        finally:
            for module, kept in sinks.items():
                module.sinks = kept

    monkeypatch.setattr(CausalModel, "_forward", forgetful)


def attribute(owner, name, value):
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


# Cache


def attend_to_everything(model, tokens, positions, mask):
    if mask is not None:
        mask = torch.ones_like(mask).tril(mask.shape[-1] - mask.shape[-2])
    return positions, mask


def positions_of_the_longest_row(model, tokens, positions, mask):
    if mask is not None:
        positions = positions.amax(0, keepdim=True).expand_as(positions)
    return positions, mask


def one_entry_more_after_a_rejection(self, row, draft, place, accepted, drafted):
    if accepted < draft.num_drafted[place]:
        self._target.cache.lengths[place] += 1


def one_entry_fewer_after_full_acceptance(self, row, draft, place, accepted, drafted):
    if accepted == draft.num_drafted[place] > 0:
        self._target.cache.lengths[place] -= 1


def rolled_back_as_if_all_was_read(self, num_accepted):
    for row, accepted in enumerate(num_accepted):
        self._model.cache.lengths[row] = self._kept[row] + accepted


def padding_by_value(model, tokens, positions, mask):
    if mask is None:  # a prompt's, where each token may attend to those before it
        mask = (positions[:, :, None] >= positions[:, None])[:, None]
        mask = mask & (tokens != 0)[:, None, None, :]
    return positions, mask


def ended_by_the_prompt(self, row, draft, place, accepted, drafted):
    if row.request.stopping.eos_token_ids & set(row.request.prompt):
        row.finish_reason = "eos"


def learned_positions_from_one(model, tokens, positions, mask):
    if model._model.config.model_type in ("gpt2", "opt") and mask is not None:
        positions = positions + 1
    return positions, mask


# Acceptance law


def rule(
    *,
    accept=lambda u, p, q: u * q < p,
    residual=lambda p, q: (p - q).clamp(min=0),
    bonus_row=lambda number: number,
    always_subtract=False,
):
    """`accept_sampled` written once more, with places to go wrong in."""

    def accept_sampled(
        draft_tokens, num_drafted, draft_logprobs, target_logprobs, accept_uniforms, next_uniforms
    ):
        rows, width = draft_tokens.shape
        each = torch.arange(rows)
        p = target_logprobs.double().exp()
        if draft_logprobs is None:
            q = torch.nn.functional.one_hot(draft_tokens, p.shape[-1]).double()
        else:
            q = draft_logprobs.double().exp()
        chosen = draft_tokens[..., None]
        share, own = p[:, :width].gather(-1, chosen)[..., 0], q.gather(-1, chosen)[..., 0]
        drafted = torch.arange(width) < num_drafted[:, None]
        kept = accept(accept_uniforms, share, own) & drafted
        number = kept.long().cumprod(1).sum(1)
        rejected = number < num_drafted
        target = p[each, torch.where(rejected, number, bonus_row(number).clamp(min=0))]
        if not width:
            return Verification(number, draw(target, next_uniforms))
        left = residual(target, q[each, number.clamp(max=width - 1)])
        use = (rejected | always_subtract) & (left.sum(-1) > 0)
        return Verification(number, draw(torch.where(use[:, None], left, target), next_uniforms))

    return accept_sampled


def sampled_rule(**changes):
    def patch(monkeypatch):
        changed = rule(**changes)
        monkeypatch.setattr(acceptance, "accept_sampled", changed)
        monkeypatch.setattr(engine, "accept_sampled", changed)

    return patch


def greedy_rule(*, keeps, row=lambda number: number):
    def accept_greedy(draft_tokens, num_drafted, target_scores):
        best = target_scores.argmax(-1)
        drafted = torch.arange(draft_tokens.shape[1]) < num_drafted[:, None]
        number = keeps(draft_tokens, best[:, :-1], target_scores[:, :-1], drafted)
        return Verification(number, best.gather(1, row(number).clamp(min=0)[:, None])[:, 0])

    return attribute(engine, "accept_greedy", accept_greedy)


def in_order(tokens, best, scores, drafted):
    return ((tokens == best) & drafted).long().cumprod(1).sum(1)


def in_any_order(tokens, best, scores, drafted):
    return ((tokens == best) & drafted).long().sum(1)


def typical(tokens, best, scores, drafted):
    shares = scores.softmax(-1)
    likely = shares.gather(-1, tokens[..., None])[..., 0] > 0.3 * shares.amax(-1)
    return (likely & drafted).long().cumprod(1).sum(1)


def proposal(change):
    """`ModelDrafter.propose` with its draft changed when sampling."""

    def patch(monkeypatch):
        original = ModelDrafter.propose

        def changed(self, histories, wanted, config, uniforms):
            draft = original(self, histories, wanted, config, uniforms)
            if uniforms is None or draft.scores is None:
                return draft
            return change(draft, config)

        monkeypatch.setattr(ModelDrafter, "propose", changed)

    return patch


def reports_q_before_temperature(draft, config):
    return Draft(
        draft.tokens, draft.num_drafted, (draft.scores * config.temperature).log_softmax(-1)
    )


def drops_what_it_is_not_sure_of(draft, config):
    sure = draft.scores.gather(-1, draft.tokens[..., None])[..., 0].exp() > 0.4
    lengths = sure.long().cumprod(1).sum(1).tolist()
    return Draft(
        draft.tokens,
        [min(a, b) for a, b in zip(lengths, draft.num_drafted, strict=True)],
        draft.scores,
    )


def draft_length_that_learns(monkeypatch):
    state = {"length": 4}

    def learn(self, row, draft, place, accepted, drafted):
        full = accepted == draft.num_drafted[place]
        state["length"] = min(4, state["length"] + 1) if full else max(1, state["length"] - 1)

    keep(learn)(monkeypatch)
    monkeypatch.setattr(Engine, "_cap", lambda self, row: state["length"])


def only_temperature(scores, config):
    return (scores / config.temperature).log_softmax(-1)


def reserve_garbage(monkeypatch):
    original = RaggedLayer._reserve

    def reserve(self, rows, entries):
        before = self.keys.shape
        original(self, rows, entries)
        for name in ("keys", "values"):
            tensor = getattr(self, name)
            if tensor.shape != before:
                tensor[before[0] :] = torch.nan
                tensor[:, :, before[2] :] = torch.nan

    monkeypatch.setattr(RaggedLayer, "_reserve", reserve)


# Stopping


def cut_by_the_last_token(self, generated, num_new):
    number = min(num_new, self.max_new_tokens - (len(generated) - num_new))
    if generated[len(generated) - num_new + number - 1] in self.eos_token_ids:
        return number, "eos"
    done = len(generated) - num_new + number >= self.max_new_tokens
    return number, "length" if done else None


def counts_after_the_end(self, row, draft, place, accepted, drafted):
    row.counters.accepted_per_step[-1] = accepted


def cut_without_limit(original):
    def cut(self, generated, num_new):
        number, reason = original(self, generated, num_new)
        return (num_new, reason) if reason == "length" else (number, reason)

    return cut


def length_goes_first(original):
    def cut(self, generated, num_new):
        number, reason = original(self, generated, num_new)
        full = len(generated) - num_new + number >= self.max_new_tokens
        return number, "length" if full else reason

    return cut


def stop_at_the_end_only(self, generated, old, keep):
    if not self.stop_strings:
        return None
    text = self.decode(list(generated[: old + keep]))
    return keep if any(text.endswith(stop) for stop in self.stop_strings) else None


def stop_in_new_tokens_only(self, generated, old, keep):
    for number in range(1, keep + 1):
        if any(
            stop in self.decode(list(generated[old : old + number])) for stop in self.stop_strings
        ):
            return number
    return None


def ended_by_a_draft(self, row, draft, place, accepted, drafted):
    proposed = drafted[: draft.num_drafted[place]]
    if row.request.stopping.eos_token_ids & set(proposed):
        row.finish_reason = row.finish_reason or "eos"


# Counters


def bonus_counted(self, row, draft, place, accepted, drafted):
    row.counters.accepted_per_step[-1] += 1


def steps_without_drafts_forgotten(self, row, draft, place, accepted, drafted):
    if draft.num_drafted[place] == 0:
        row.counters.accepted_per_step.pop()
        row.counters.drafted_per_step.pop()


def shortest_row_decides(monkeypatch):
    original = Engine._step

    def step(self, rows, drafter):
        self._least = min(row.remaining for row in rows) - 1
        original(self, rows, drafter)

    monkeypatch.setattr(Engine, "_step", step)
    monkeypatch.setattr(
        Engine, "_cap", lambda self, row: min(self._config.num_speculative_tokens, self._least)
    )


# Randomness


class OneNumber:
    def __init__(self, generator):
        self._generator = generator

    def random(self, number):
        return self._generator.random(1).repeat(number)


class GlobalNumbers:
    def random(self, number):
        return torch.rand(number, dtype=torch.float64).numpy()


def generators(make):
    def patch(monkeypatch):
        original = engine.request_generator
        changed = lambda seed, name: make(original, seed, name)  # noqa: E731
        monkeypatch.setattr(engine, "request_generator", changed)

    return patch


# Vocabulary


def pad_with_zero(scores, vocab_size):
    missing = vocab_size - scores.shape[-1]
    if missing <= 0:
        return scores[..., :vocab_size]
    return torch.nn.functional.pad(scores, (0, missing), value=0.0)


def compare_sizes(target, drafter):
    return "has another tokenizer" if len(drafter) != len(target) else None


def off_by_one(self, scores):
    return right_scores(self, scores).roll(1, -1)


right_scores = VocabularyMap.to_target


# Composition


def move_keys_only(self, source, destination):
    length = self.lengths[source]
    for layer in self.layers:
        layer.keys[destination, :, :length] = layer.keys[source, :, :length]
    self.lengths[destination] = length


# Replay


def wanted(change):
    """The rule of how many tokens a step drafts, changed: both sides' mistakes look alike."""

    def patch(monkeypatch):
        original = steps.num_wanted

        def changed(place, cap, limit, *, room=None):
            return change(original, place, cap, limit, room)

        monkeypatch.setattr(steps, "num_wanted", changed)

    return patch


def replayed(change):
    """The steps of a text, changed afterwards."""

    def patch(monkeypatch):
        original = steps.steps_of

        def changed(length, agreeing, **arguments):
            return change(original, length, agreeing, arguments)

        monkeypatch.setattr(steps, "steps_of", changed)

    return patch


def drafts_beyond_the_end_are_kept(original, length, agreeing, arguments):
    """As if accepted drafts after EOS, or after a stop string, belonged to the text."""
    found = original(length, agreeing, **arguments)
    if found.accepted[-1] < found.drafted[-1]:
        found.accepted[-1] += 1
    return found


def a_rejected_draft_after_the_end_is_examined(original, length, agreeing, arguments):
    found = original(length, agreeing, **arguments)
    if sum(found.accepted) + len(found.accepted) > length:
        found.examined_places.append(length)
    return found


MUTANTS = [
    Mutant(
        1,
        "stale-keys",
        "the mask ends at the longest row, so rejected keys of shorter ones are attended to",
        forward(attend_to_everything),
    ),
    Mutant(
        2,
        "positions",
        "all rows get the longest row's positions",
        forward(positions_of_the_longest_row),
    ),
    Mutant(
        3,
        "trim",
        "one entry too many is kept after a rejection",
        keep(one_entry_more_after_a_rejection),
    ),
    Mutant(
        3,
        "trim",
        "one entry too few is kept after full acceptance",
        keep(one_entry_fewer_after_full_acceptance),
    ),
    Mutant(
        4,
        "drafter-cache",
        "the drafter's cache is taken to hold its last draft after full acceptance",
        attribute(ModelDrafter, "rolled_back", rolled_back_as_if_all_was_read),
    ),
    Mutant(
        5, "padding", "prompt tokens with the padding's id are masked", forward(padding_by_value)
    ),
    Mutant(5, "padding", "EOS in the prompt ends the text", keep(ended_by_the_prompt)),
    Mutant(
        6,
        "uncroppable",
        "sliding windows are taken like full attention",
        layer_rule(lambda rule: lambda row, head, query, key: key <= query),
    ),
    Mutant(
        7,
        "drafter-distribution",
        "the drafter takes its most likely token and reports its softmax",
        attribute(drafters, "draw", lambda weights, uniforms: weights.argmax(-1)),
    ),
    Mutant(
        7,
        "drafter-distribution",
        "q is reported as it was before the temperature",
        proposal(reports_q_before_temperature),
    ),
    Mutant(
        8,
        "processors",
        "top-k and top-p are not applied to the target",
        attribute(engine, "log_distribution", only_temperature),
    ),
    Mutant(
        8,
        "processors",
        "no temperature is applied to the target",
        attribute(engine, "log_distribution", lambda scores, config: scores.log_softmax(-1)),
    ),
    Mutant(
        9,
        "residual",
        "a rejected token is replaced by a draw from p",
        sampled_rule(residual=lambda p, q: p),
    ),
    Mutant(
        9, "residual", "the residual is |p - q|", sampled_rule(residual=lambda p, q: (p - q).abs())
    ),
    Mutant(9, "residual", "every draft is accepted", sampled_rule(accept=lambda u, p, q: u >= 0)),
    Mutant(
        9,
        "residual",
        "accepted with chance p instead of p / q",
        sampled_rule(accept=lambda u, p, q: u < p),
    ),
    Mutant(
        10,
        "bonus-token",
        "the bonus token is drawn from the row before",
        sampled_rule(bonus_row=lambda number: number - 1),
    ),
    Mutant(
        10,
        "bonus-token",
        "q is subtracted though all drafts were kept",
        sampled_rule(always_subtract=True),
    ),
    Mutant(
        10,
        "bonus-token",
        "greedy: the token that follows is the row's before",
        greedy_rule(keeps=in_order, row=lambda number: number - 1),
    ),
    Mutant(
        11,
        "draft-length",
        "a drawn token that the drafter is not sure of is dropped",
        proposal(drops_what_it_is_not_sure_of),
    ),
    Mutant(
        11,
        "draft-length",
        "the draft length follows what earlier requests accepted",
        draft_length_that_learns,
    ),
    Mutant(
        12,
        "eos-in-block",
        "EOS is looked for in a block's last token only",
        attribute(Stopping, "cut", cut_by_the_last_token),
    ),
    Mutant(12, "eos-in-block", "accepted drafts after EOS are counted", keep(counts_after_the_end)),
    Mutant(
        13,
        "length",
        "a block is not cut at the limit",
        lambda m: (
            m.setattr(Stopping, "cut", cut_without_limit(Stopping.cut))
            or m.setattr(engine._Row, "remaining", 1 << 20)
        ),
    ),
    Mutant(
        13,
        "length",
        "the limit is named though EOS came first",
        lambda m: m.setattr(Stopping, "cut", length_goes_first(Stopping.cut)),
    ),
    Mutant(
        14,
        "stop-strings",
        "stops are looked for at the end of a block only",
        attribute(Stopping, "_first_stop", stop_at_the_end_only),
    ),
    Mutant(
        14,
        "stop-strings",
        "stops are looked for in a block's own tokens only",
        attribute(Stopping, "_first_stop", stop_in_new_tokens_only),
    ),
    Mutant(
        15,
        "drafter-eos",
        "a drafted EOS ends the row before it is verified",
        keep(ended_by_a_draft),
    ),
    Mutant(
        16,
        "padded-vocabulary",
        "ids that the drafter lacks get score 0",
        attribute(drafters, "fit_vocabulary", pad_with_zero),
    ),
    Mutant(
        16,
        "padded-vocabulary",
        "padded ids are drafted",
        attribute(drafters, "fit_vocabulary", lambda scores, vocab_size: scores),
    ),
    Mutant(
        17,
        "same-size-tokenizer",
        "only the sizes of vocabularies are compared",
        attribute(loading, "tokenizer_difference", compare_sizes),
    ),
    Mutant(
        18,
        "cross-tokenizer",
        "tokenizers are not compared at all",
        attribute(loading, "tokenizer_difference", lambda *a: None),
    ),
    Mutant(
        18,
        "cross-tokenizer",
        "the map from token to token is off by one",
        attribute(VocabularyMap, "to_target", off_by_one),
    ),
    Mutant(
        19,
        "seeds",
        "one random number serves a whole step",
        generators(lambda make, seed, name: OneNumber(make(seed, name))),
    ),
    Mutant(
        19,
        "seeds",
        "all requests draw the same numbers",
        generators(lambda make, seed, name: make(seed, "")),
    ),
    Mutant(
        19,
        "seeds",
        "numbers come from the global state",
        generators(lambda make, seed, name: GlobalNumbers()),
    ),
    Mutant(
        20,
        "counters",
        "agreeing drafts are counted also after a wrong one",
        greedy_rule(keeps=in_any_order),
    ),
    Mutant(20, "counters", "the bonus token counts as an accepted draft", keep(bonus_counted)),
    Mutant(
        20, "counters", "steps without drafts are not counted", keep(steps_without_drafts_forgotten)
    ),
    Mutant(
        21,
        "finished-rows",
        "more is drafted than can be kept",
        attribute(engine._Row, "remaining", 1 << 20),
    ),
    Mutant(
        21,
        "finished-rows",
        "the row that ends first limits the others' drafts",
        shortest_row_decides,
    ),
    Mutant(25, "non-finite", "cache entries are reserved without being zeroed", reserve_garbage),
    Mutant(
        25,
        "non-finite",
        "cross-entropy multiplies 0 by infinity",
        attribute(divergence, "_expected_surprisal", lambda p, logprobs: -(p * logprobs).sum(-1)),
    ),
    Mutant(
        26,
        "architectures",
        "learned positions are off by one after the prompt",
        forward(learned_positions_from_one),
    ),
    Mutant(
        27,
        "moved-rows",
        "a moved row leaves its values behind",
        attribute(RaggedCache, "move", move_keys_only),
    ),
    Mutant(
        27,
        "moved-rows",
        "the drafter is not told that a row moved",
        attribute(ModelDrafter, "move", lambda self, source, destination: None),
    ),
    Mutant(
        28,
        "greedy-by-chance",
        "likely drafts are kept, not only the most likely",
        greedy_rule(keeps=typical),
    ),
    Mutant(29, "layer-kinds", "a window is one key too wide", layer_rule(one_key_more)),
    Mutant(29, "layer-kinds", "a layer gets the mask of the other kind", other_layers_rule),
    Mutant(29, "layer-kinds", "sinks are forgotten", without_sinks),
    Mutant(
        29,
        "layer-kinds",
        "queries are scaled, and windows cut, by the number of keys",
        attribute(models, "tellings", lambda model: []),
    ),
    Mutant(
        30,
        "replay",
        "one token too many is drafted at the length limit",
        wanted(
            lambda rule, place, cap, limit, room: rule(
                place, cap, None if limit is None else limit + 1, room=room
            )
        ),
    ),
    Mutant(
        30,
        "replay",
        "a draft behind EOS is kept",
        replayed(drafts_beyond_the_end_are_kept),
    ),
    Mutant(
        30,
        "replay",
        "the rejected draft behind a stop string is examined",
        replayed(a_rejected_draft_after_the_end_is_examined),
    ),
    Mutant(
        30,
        "replay",
        "one token too few is drafted at the end of the drafter's context",
        wanted(
            lambda rule, place, cap, limit, room: rule(
                place, cap, limit, room=None if room is None else room - 1
            )
        ),
    ),
]

# What `test_harness_classes` puts into the harness: class and bug.
HARNESS_MUTANTS = [
    (22, "a second BOS in front of the plain arm's prompts"),
    (23, "only one arm is warmed up"),
    (23, "the plain arm always goes first"),
    (23, "tokens are counted by encoding the text once more"),
    (24, "mask sizes asked for as in transformers 4"),
    (24, "a cache whose `update` wants an argument more"),
]
