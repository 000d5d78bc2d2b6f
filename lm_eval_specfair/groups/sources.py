"""The sources that may name a request's group."""

from typing import Literal, get_args

GroupSource = Literal["file", "document", "metadata", "suite", "dataset", "name", "ambiguous_name"]
"""The user's file, the document, the task's metadata, a known suite, the configuration of the data
set, or the task's name, which makes it a guess; an ambiguous one may as well name a country, a
state or an English word."""
GROUP_SOURCES: tuple[GroupSource, ...] = get_args(GroupSource)
