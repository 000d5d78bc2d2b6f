"""Names from outside as text without effect in a terminal, Markdown, CSV or XML.

Names of groups, runs and models come from data sets, folders and other people's files. HTML pages
escape by themselves (`reporting.page.shell`).
"""

import re

# Brackets alone are harmless, and intervals are full of them; links need two pairs in a row.
_MARKDOWN = re.compile(r"([\\`*_{}|~$#]|(?<=\])[(\[])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: object) -> str:
    """Without line breaks, control and invisible characters, which a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def markdown(text: object) -> str:
    r"""As it is, in a table's cell too: no markup, no HTML, no links, and nobody is notified.

    Example:
        >>> print(markdown("a|b <c> @all"))
        a\|b &lt;c&gt; @&#8203;all
    """
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A zero-width space keeps a web site from linking to people, or to what follows "://".
    escaped = _MARKDOWN.sub(r"\\\1", escaped)
    return escaped.replace("@", "@&#8203;").replace("://", ":&#8203;//")


def csv_cell(text: object) -> str:
    """A cell that no spreadsheet takes for a formula.

    Example:
        >>> csv_cell("=1+1"), csv_cell("sw")
        ("'=1+1", 'sw')
    """
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


def xml(text: object) -> str:
    """Without the characters that XML has no way to write; the writer escapes the others."""
    return "".join(c for c in one_line(text) if c not in "\ufffe\uffff")
