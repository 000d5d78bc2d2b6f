"""A record's line as far as a report looks at it, under the names of the record's fields."""

import msgspec

from lm_eval_specfair.records.schema import Record

# Reading these would take as long as all the rest.
_UNREAD = ("rejected_token_ids", "discarded_token_ids", "overlap_per_position")

decode_columns = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Columns",
        [
            (field.name, msgspec.Raw, msgspec.Raw(b"null"))
            if field.name in _UNREAD
            else (field.name, field.type, *(() if field.required else (field.default,)))
            for field in msgspec.structs.fields(Record)
        ],
        kw_only=True, forbid_unknown_fields=True, frozen=True, gc=False,
    )
).decode  # fmt: skip
"""A line as a struct like `Record`, in which what is never looked at stays unread."""
