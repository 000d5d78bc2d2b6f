"""Where drafts are lost: the sentences and tables of a report's section."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.places.costly_tokens import CostlyToken
from lm_eval_specfair.metrics.places.position_share import PositionShare
from lm_eval_specfair.metrics.places.whereabouts import GroupPlaces, Whereabouts
from lm_eval_specfair.metrics.statistics.bootstrap import SEED
from lm_eval_specfair.metrics.statistics.intervals import Estimate
from lm_eval_specfair.metrics.summary import Estimates
from lm_eval_specfair.reporting.claims import nouns_of
from lm_eval_specfair.reporting.format import count, isolated, shortened
from lm_eval_specfair.reporting.tables import Cell, Table, estimate_cell, row_of

HEADING = "Where drafts are lost"
_FEWEST = 4  # groups of a rank correlation


def sentences(where: Whereabouts, group_by: str, groups: Mapping[str, Estimates]) -> list[str]:
    """Whether position explains the spread of acceptance; `groups` are the report's figures."""
    nouns = nouns_of(group_by)
    found = [
        *_premise(where, nouns, groups),
        *_explained(where.by_context_place, nouns, "Position in the context, prompt included,"),
        *_explained(where.by_answer_place, nouns, "Position in the generated text"),
    ]
    if where.num_unplaced:
        found.append(
            f"{count(where.num_unplaced, 'request')} cannot be placed, as the steps are not "
            "recorded or do not agree with their counts."
        )
    return found


def _premise(where: Whereabouts, nouns: str, groups: Mapping[str, Estimates]) -> list[str]:
    """Whether groups with fewer bytes a token are read at later positions at all."""
    pairs = [
        (one.value, place.mean_context_place)
        for group, place in where.groups.items()
        if (one := groups.get(group, {}).get("bytes_per_token")) is not None
    ]
    if len(pairs) < _FEWEST:
        return []
    size, places = np.array(pairs).T
    if np.ptp(size) == 0 or np.ptp(places) == 0:
        return []
    # Only here: scipy.stats takes a second to load.
    from lm_eval_specfair.metrics.statistics.rank_correlation import spearman

    rho, p_value = spearman(size, places, np.random.default_rng(SEED))
    told = "are not shown to be read at other positions"
    if p_value < 0.05:
        told = f"are read at {'later' if rho < 0 else 'earlier'} positions"
    return [
        f"{nouns.capitalize()} with fewer bytes a token {told} (Spearman {rho:.2f} over "
        f"{len(pairs)}, p {p_value:.2g})."
    ]


def _explained(found: PositionShare | None, nouns: str, what: str) -> list[str]:
    if found is None:
        return []
    one = found.share
    if one is None:
        return [
            f"{what} has nothing to explain: the acceptance of the {nouns} does not differ by more "
            "than noise."
        ]
    if one.low is None or one.high is None:
        return [
            f"{what} goes with {one.value:.0%} of the spread of acceptance across {nouns}, on too "
            "little to say how sure that is."
        ]
    low, value, high = (_percent(each) for each in (one.low, one.value, one.high))
    ends = f"{low} to {high}" if low != high else low
    if one.high <= 0:
        return [
            f"{what} explains none of the spread of acceptance across {nouns} ({ends}): at equal "
            "positions they would differ as much, or more."
        ]
    if one.low <= 0:
        return [
            f"{what} is not shown to explain any of the spread of acceptance across {nouns} "
            f"({ends}); it explains {high} at most."
        ]
    return [
        f"{what} goes with {value} ({ends}) of the spread of acceptance across {nouns}"
        f"{'; what remains does so at equal positions' if one.high < 1 else ''}."
    ]


def _percent(share: float) -> str:
    text = f"{share:.0%}"
    return "0%" if text == "-0%" else text


def places_tables(where: Whereabouts, group_by: str, token_names: Mapping[int, str]) -> list[Table]:
    """Acceptance by position, draft position and kind of token, and the costliest tokens."""
    of_answer = "Conditional acceptance by position in the generated text"
    tables = [
        _positions(where, group_by),
        _table(where, group_by, of_answer, lambda one: one.by_answer_band),
        _table(
            where,
            group_by,
            "Conditional acceptance by position in the context, prompt included",
            lambda one: one.by_context_band,
        ),
        _table(
            where,
            group_by,
            "Conditional acceptance by draft position",
            lambda one: one.by_draft_position,
        ),
    ]
    if set(where.overall.by_kind) - {"unknown"}:
        tables += [
            _table(
                where, group_by, "Conditional acceptance by kind of token", lambda one: one.by_kind
            ),
            _table(
                where,
                group_by,
                "Conditional acceptance by script of the token",
                lambda one: one.by_script,
            ),
        ]
    if where.overall.costly:
        tables.append(_costly(where, group_by, token_names))
    return tables


def _rows(where: Whereabouts, group_by: str) -> list[tuple[str, GroupPlaces]]:
    return [
        *((shortened(display_name(group, group_by)), one) for group, one in where.groups.items()),
        ("All requests", where.overall),
    ]


def _positions(where: Whereabouts, group_by: str) -> Table:
    """Each group's acceptance as it is, and at equal positions."""
    equal: list[Sequence[Estimate | None]] = [
        [None] * len(where.groups) if share is None else share.at_equal_positions
        for share in (where.by_answer_place, where.by_context_place)
    ]
    rows = []
    for place, (name, one) in enumerate(_rows(where, group_by)):
        at = [each[place] if place < len(each) else None for each in equal]
        rows.append(
            row_of(
                name,
                Cell(str(one.requests), one.requests),
                estimate_cell(one.acceptance, ".3f"),
                _place(one.mean_place),
                estimate_cell(at[0], ".3f"),
                _place(one.mean_context_place),
                estimate_cell(at[1], ".3f"),
            )
        )
    return Table(
        title="Conditional acceptance as it is, and at equal positions",
        header=[
            group_by.capitalize(),
            "n",
            "Acceptance",
            "Mean position\nin the text",
            "At equal\npositions",
            "Mean position\nin the context",
            "At equal\npositions",
        ],
        sections=[rows[:-1], rows[-1:]] if len(rows) > 1 else [rows],
        note="At equal positions: at those of the average group, by a course of acceptance over "
        "positions that all groups share, fitted beside a level of each group.",
    )


def _place(place: float) -> Cell:
    """A place that counts from 0, as people count."""
    return Cell(f"{place + 1:,.0f}", place + 1)


def _table(
    where: Whereabouts,
    group_by: str,
    title: str,
    read: Callable[[GroupPlaces], Mapping[str, Estimate]],
) -> Table:
    names = list(read(where.overall))
    rows = [
        row_of(label, *(estimate_cell(read(one).get(name)) for name in names))
        for label, one in _rows(where, group_by)
    ]
    return Table(
        title=title,
        header=[group_by.capitalize(), *names],
        sections=[rows[:-1], rows[-1:]] if len(rows) > 1 else [rows],
    )


def _costly(where: Whereabouts, group_by: str, token_names: Mapping[int, str]) -> Table:
    rows = [
        row_of(
            label,
            Cell(f"{one.num_rejections:,}", one.num_rejections),
            Cell("; ".join(_told(each, token_names) for each in one.costly)),
        )
        for label, one in _rows(where, group_by)
    ]
    return Table(
        title="Tokens that end most steps",
        header=[group_by.capitalize(), "Rejections", "The target's own token, how often"],
        sections=[rows[:-1], rows[-1:]] if len(rows) > 1 else [rows],
        note="A step ends where the target puts its own token in place of a drafted one. After "
        "`for`: what the drafter proposed most often there, where records say it.",
    )


def _told(one: CostlyToken, token_names: Mapping[int, str]) -> str:
    def quoted(token: int) -> str:
        return f"\u201c{isolated(token_names.get(token, f'#{token}'))}\u201d"

    text = f"{quoted(one.token_id)} {one.num_steps:,} ({one.share:.1%})"
    if one.proposal_id is None:
        return text
    return f"{text} for {quoted(one.proposal_id)} {one.num_proposals:,}"


def places_json(
    where: Whereabouts, group_by: str, groups: Mapping[str, Estimates], names: Mapping[int, str]
) -> dict[str, Any]:
    """The key `where` of a report's JSON."""

    def share(found: PositionShare | None) -> dict[str, Any] | None:
        if found is None:
            return None
        equal = zip(where.groups, found.at_equal_positions, strict=True)
        return {
            "share": None if found.share is None else dataclasses.asdict(found.share),
            "at_equal_positions": {group: dataclasses.asdict(one) for group, one in equal},
        }

    return {
        "sentences": sentences(where, group_by, groups),
        "overall": dataclasses.asdict(where.overall),
        "groups": {group: dataclasses.asdict(one) for group, one in where.groups.items()},
        "by_answer_place": share(where.by_answer_place),
        "by_context_place": share(where.by_context_place),
        "num_unplaced": where.num_unplaced,
        "token_names": {str(token): name for token, name in names.items()},
    }
