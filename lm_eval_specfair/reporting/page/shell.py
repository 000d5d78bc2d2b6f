"""What self-contained HTML pages share: one look, one script that sorts, and a policy.

The policy (Content-Security-Policy) allows the page's own style and script by their digests; the
browser runs nothing else, whatever a name in the page may hold, and asks no other machine for
anything.
"""

import base64
import hashlib
from typing import Any

import jinja2

from lm_eval_specfair.reporting.page import drawings

_LEAST = 1e-12  # what is left where rounding alone keeps a difference from 0
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lm_eval_specfair.reporting.page"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_SIZE = {
    "width": drawings.WIDTH,
    "height": drawings.HEIGHT,
    "left": drawings.LEFT,
    "right": drawings.WIDTH - drawings.RIGHT,
    "top": drawings.TOP,
    "floor": drawings.HEIGHT - drawings.BOTTOM,
}


def page(template: str, **content: Any) -> str:
    """A page from a template that extends `base.html.j2`, with its style and script.

    Args:
        template: Its file.
        content: What it shows; `title` at least. Everything is escaped.
    """
    style, script = _source("page.css"), _source("sort.js")
    return _TEMPLATES.get_template(template).render(
        style=style,
        script=script,
        style_hash=_digest(style),
        script_hash=_digest(script),
        number=precise,
        size=_SIZE,
        **content,
    )


def precise(value: float) -> str:
    """A number with four digits that count."""
    return f"{value:#.4g}".removesuffix(".") if abs(value) >= _LEAST else "0"


def _source(name: str) -> str:
    loader = _TEMPLATES.loader
    assert loader is not None
    return loader.get_source(_TEMPLATES, name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
