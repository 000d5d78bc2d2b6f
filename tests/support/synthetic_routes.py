"""Texts of drafters as sums by document, with true speed-ups that are known."""

import numpy as np

from lm_eval_specfair.metrics.draft_length.length_sums import ReplayColumns
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts
from lm_eval_specfair.metrics.routing.drafter_texts import DrafterTexts, Route
from lm_eval_specfair.metrics.routing.route_selection import choose_routes

TOKENS = 100.0
FREE = GivenCosts(draft=0.0, verify=1.0, overhead=0.0, length=2)  # a step costs a plain one


def drafters(truth, generator, *, documents=10, shared=0.3, own=0.3, parallel=True):
    """Drafters with given true speed-ups, where a step costs as much as a plain one.

    `truth` has shape (num_drafters, num_lengths, num_groups). A document's steps differ from the
    mean by two factors: one that all routes and, where `parallel`, all groups share (a hard text),
    and one of the route.
    """
    truth = np.asarray(truth, dtype=float)
    num_drafters, num_lengths, num_groups = truth.shape
    columns = ReplayColumns(measured=[num_lengths], longest=num_lengths)
    hard = generator.gamma(1 / shared**2, shared**2, (documents, 1 if parallel else num_groups))
    found = []
    for number in range(num_drafters):
        block = np.zeros((documents, num_groups, columns.total))
        block[..., columns.texts] = (1.0, TOKENS, 10.0, 5.0)
        for length in range(num_lengths + 1):
            steps = np.full((documents, num_groups), TOKENS)
            if length:
                luck = generator.gamma(1 / own**2, own**2, steps.shape)
                steps = steps / truth[number, length - 1] * hard * luck
            replayed = block[..., columns.replayed(length)]
            replayed[..., 0], replayed[..., 1] = steps, steps * length
        blocks = [block] if parallel else [block[:, [one]] for one in range(num_groups)]
        found.append(
            DrafterTexts(name=f"drafter-{number}", columns=columns, blocks=blocks, given=FREE)
        )
    return found


def policy_of(found, *, num_resamples=200, **options):
    groups = sum(block.shape[1] for block in found[0].blocks)
    requests = {f"g{number:02}": len(found[0].blocks[0]) for number in range(groups)}
    return choose_routes(
        found,
        group_by="language",
        requests=requests,
        incumbent=Route("drafter-0", found[0].columns.longest),
        num_resamples=num_resamples,
        **options,
    )


def true_speedup(truth, route, group):
    if not route.length:
        return 1.0
    return truth[int(route.drafter.rpartition("-")[2])][route.length - 1][group]
