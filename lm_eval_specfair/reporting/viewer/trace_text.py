"""A trace for a terminal: in colours, or where there are none, with marks."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.records.texts.token_pieces import TokenPieces
from lm_eval_specfair.reporting.format import count
from lm_eval_specfair.reporting.viewer.request_trace import Fate, RequestTrace, TraceStep
from lm_eval_specfair.reporting.viewer.token_cells import TokenCell, cells_of

MEANINGS = {
    "kept": "drafted and kept",
    "replaced": "the target's own, in place of a rejected draft",
    "bonus": "the target's own, after drafts that were all kept",
    "undrafted": "the target's own, nothing was drafted",
    "thrown_away": "drafted and thrown away",
    "unknown": "not known",
}
"""What the marks say, in the order of legends."""
_HARMLESS = "\u200b\u200c\u200d\u00ad\u2060"  # they shape letters and lines, and move nothing
_COLOURS = {"kept": "32", "replaced": "4;33", "bonus": "4;36", "undrafted": "4", "unknown": "0"}
_THROWN_AWAY, _BORDER = "9;31", "2"
_MARKS = {
    "kept": ("", ""),
    "replaced": ("{+", "+}"),
    "bonus": ("{*", "*}"),
    "undrafted": ("{", "}"),
    "unknown": ("", ""),
}


@dataclass(frozen=True, slots=True)
class ShownTrace:
    """A request's trace with what its tokens spell."""

    trace: RequestTrace
    pieces: TokenPieces

    @property
    def cells(self) -> list[TokenCell]:
        """The text in parts that can be marked."""
        return cells_of(self.trace.tokens, self.pieces)

    @property
    def counts(self) -> Mapping[str, int]:
        """Tokens by what became of them."""
        return self.trace.counts()

    def thrown_away(self, step: TraceStep) -> str:
        """What a step drafted in vain, with the bytes of a character that it would have ended."""
        before = self.trace.tokens[: step.begin + step.num_kept][-4:]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(self.pieces.spelled.get(token, b"?") for token in before))
        tail, ids = decoder.getstate()[0], list(step.thrown_away)
        pieces = self.pieces
        if ids and tail and ids[0] in pieces.spelled:
            own = {token: pieces.spelled[token] for token in ids if token in pieces.spelled}
            own[-1] = tail + own[ids[0]]
            ids[0] = -1
            pieces = TokenPieces(spelled=own, special=pieces.special)
        cells = cells_of(ids, pieces)
        return "".join(cell.text for cell in cells)

    def render(self, *, colour: bool = False) -> str:
        """Heading, counts, the text and a legend; without colours in marks, as `wdiff` has them."""
        record = self.trace.record
        lines = [one_line(record.request_id), counts_line(self.trace)]
        if record.failure is not None:
            lines.append(f"It failed: {one_line(record.failure)}.")
        if not self.trace.tokens:
            lines += ["", printable(record.generated_text or "")]
            return "\n".join([*lines, "", "Its record does not tell the tokens apart."])
        text = "".join(self._marked(colour=colour))
        return "\n".join([*lines, "", text, "", self._legend(colour=colour)])

    def __str__(self) -> str:
        return self.render()

    def _marked(self, *, colour: bool) -> Iterator[str]:
        begins = {step.begin for step in self.trace.steps if step.begin}
        owns = {step.begin + step.num_kept: step for step in self.trace.steps}
        for cell in self.cells:
            here = range(cell.first, cell.last + 1)
            if not begins.isdisjoint(here):
                yield _painted("\u2502", _BORDER) if colour else "|"
            for place in here:  # once, though a token may have a part in several cells
                begins.discard(place)
                if (step := owns.pop(place, None)) is not None:
                    yield self._in_vain(step, colour=colour)
            yield _cell(cell, self.trace.fates[cell.first : cell.last + 1], colour=colour)
        for step in owns.values():  # the text ended among its drafts
            yield self._in_vain(step, colour=colour)

    def _in_vain(self, step: TraceStep, *, colour: bool) -> str:
        if not step.num_thrown_away:
            return ""
        text = printable(self.thrown_away(step))
        missing = step.num_thrown_away - len(step.thrown_away)
        if missing:
            text += f"\u2026{missing}"
        return _painted(text, _THROWN_AWAY) if colour else f"[-{text}-]"

    def _legend(self, *, colour: bool) -> str:
        counts, parts = self.counts, []
        for name, meaning in MEANINGS.items():
            if name not in counts:
                continue
            if name == "thrown_away":
                sign = _painted("text", _THROWN_AWAY) if colour else "[-text-]"
            elif colour:
                sign = _painted("text", _COLOURS[name])
            else:
                sign = "text".join(_MARKS[name])
            parts.append(f"{sign} {meaning}")
        border = _painted("\u2502", _BORDER) if colour else "|"
        parts.append(f"{border} a step begins")
        if any(len(step.thrown_away) < step.num_thrown_away for step in self.trace.steps):
            parts.append("\u2026n so many more, not known which")
        return "; ".join(parts) + "."


def counts_line(trace: RequestTrace) -> str:
    """What became of the tokens, in one line."""
    record, counts = trace.record, trace.counts()
    said = [f"{counts[name]:,} {MEANINGS[name]}" for name in MEANINGS if counts.get(name)]
    number = record.num_generated_tokens or 0
    steps = record.num_spec_steps or 0
    rate = f", {number / steps:.2f} tokens a step" if steps else ""
    detail = f": {'; '.join(said)}" if trace.steps else ""
    return f"{count(number, 'token')} in {count(steps, 'step')}{rate}{detail}."


def escaped(text: str) -> str:
    """Text without what moves or hides other text; line breaks and tabs are kept."""
    return "".join(c if c in "\n\t" else _shown(c) for c in text)


def printable(text: str) -> str:
    r"""Text without what a terminal would obey, which is escaped; a line break is shown and kept.

    Example:
        >>> print(printable("a\x1b[2Jb\u202e"))
        a\x1b[2Jb\u202e
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\n":
        return "\u21b5\n"
    if character.isprintable() or character in _HARMLESS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def _cell(cell: TokenCell, fates: Sequence[Fate], *, colour: bool) -> str:
    """A cell of several fates is marked as the last one, which decided it, and says so."""
    text = printable(cell.text) if cell.is_text else f"\u27e8{printable(cell.text)}\u27e9"
    fate = fates[-1].value
    if colour:
        return _painted(text, _COLOURS[fate])
    opening, closing = _MARKS[fate]
    return f"{opening}{text}{closing}"


def _painted(text: str, codes: str) -> str:
    # A line break is left out, or the background of the next line would be painted too.
    return "\n".join(f"\x1b[{codes}m{line}\x1b[0m" if line else "" for line in text.split("\n"))
