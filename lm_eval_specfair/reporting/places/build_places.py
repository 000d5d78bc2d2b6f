"""From folders of runs to where drafts are lost: one more pass over records, with tokens."""

from collections.abc import Mapping, Sequence

from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.places.place_sums import PlaceSums
from lm_eval_specfair.metrics.places.token_classes import classes_of
from lm_eval_specfair.metrics.places.whereabouts import Whereabouts, whereabouts
from lm_eval_specfair.records import read_blocks
from lm_eval_specfair.records.texts.token_pieces import TokenPieces
from lm_eval_specfair.reporting.runs import RunReader
from lm_eval_specfair.reporting.viewer.piece_source import pieces_of_run

_UNREAD = ("generated_text", "overlap_per_position")


def build_places(
    readers: Sequence[RunReader], group_by: str, mapping: UserGroups | None, min_requests: int
) -> tuple[Whereabouts | None, dict[int, str]]:
    """Where drafts are lost in runs that were read before, and what the tokens named in it spell.

    Tokens are told apart where all runs have one target, as ids mean nothing across tokenizers.
    """
    sums = PlaceSums(group_by, mapping)
    is_one = len({_target(reader) for reader in readers}) == 1
    pieces = pieces_of_run(readers[0].folder, readers[0].info) if is_one else TokenPieces()
    classes = classes_of(pieces.spelled, pieces.special)
    for reader in readers:
        for block in read_blocks(reader.folder, without=_UNREAD):
            records = [record for record in block.records if record.failure is None]
            if records:
                sums.add(records, reader.tasks, classes, with_tokens=is_one)
    found = whereabouts(sums, min_requests)
    return found, {} if found is None else _names(found, pieces)


def _target(reader: RunReader) -> object:
    known = reader.info.get("settings")
    settings: Mapping[str, object] = known if isinstance(known, dict) else {}
    return settings.get("target_weights") or settings.get("target")


def _names(found: Whereabouts, pieces: TokenPieces) -> dict[int, str]:
    """What the costly tokens and the proposals in their place spell."""
    costly = [each for group in (found.overall, *found.groups.values()) for each in group.costly]
    ids = {each.token_id for each in costly} | {
        each.proposal_id for each in costly if each.proposal_id is not None
    }
    return {token: _name(token, pieces) for token in sorted(ids)}


def _name(token: int, pieces: TokenPieces) -> str:
    if (special := pieces.special.get(token)) is not None:
        return special
    piece = pieces.spelled.get(token)
    if piece is None:
        return f"#{token}"
    # Spaces and parts of characters must be seen.
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in piece.decode("utf-8", "backslashreplace").replace("\\", "\\\\")
    ).replace("\\\\x", "\\x")
