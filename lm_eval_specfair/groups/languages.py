"""Facts about languages: script, family, part of the world, resources.

The table, `languages.tsv`, has some 700 of them and is made by `tools/language_table.py`.

Source:
    Script: Unicode CLDR, likely subtags. Family and macroarea: Glottolog 5.1 (Hammarström et al.
    2024, CC-BY 4.0); a family is the top of its tree. Resource class: Joshi et al. 2020, The State
    and Fate of Linguistic Diversity and Inclusion in the NLP World (arXiv:2004.09095).
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

UNCLASSIFIED = "unclassified"  # the resource class of a language that the taxonomy does not name

RESOURCE_CLASSES = {
    "0": "the left-behinds", "1": "the scraping-bys", "2": "the hopefuls",
    "3": "the rising stars", "4": "the underdogs", "5": "the winners",
}  # fmt: skip
"""The classes and what Joshi et al. call them: 0 has next to no data, 5 the most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """What the table says about one language."""

    tag: str  # BCP-47, without script and region
    script: str | None  # the usual one (ISO 15924)
    family: str  # an isolate is a family of its own
    macroarea: str | None  # None for constructed languages
    resource_class: str  # `0` to `5`, or `UNCLASSIFIED`


@functools.cache
def languages() -> dict[str, Language]:
    """The table, by tag."""
    return {
        row["tag"]: Language(
            tag=row["tag"],
            script=row["script"] or None,
            family=row["family"],
            macroarea=row["macroarea"] or None,
            resource_class=row["resource_class"] or UNCLASSIFIED,
        )
        for row in read_table("languages.tsv")
    }


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of one of this room's tables."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def usual_script(tag: str) -> str | None:
    """The script that goes without saying in a language; None where it is not in the table."""
    return language.script if (language := languages().get(tag)) else None
