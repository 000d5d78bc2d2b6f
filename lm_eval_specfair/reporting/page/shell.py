"""Self-contained HTML pages: their style, the script that sorts tables, and a security policy.

The policy (Content-Security-Policy) allows the page's own style and script by their digests; the
browser runs nothing else, even if a name in the page holds code, and sends no request anywhere.
"""

import base64
import hashlib
from typing import Any

import jinja2

from lm_eval_specfair.reporting.format import four_digits, prose
from lm_eval_specfair.reporting.page import drawings

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lm_eval_specfair.reporting.page"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"number": four_digits, "prose": prose}
_SIZE = {
    "width": drawings.WIDTH,
    "height": drawings.HEIGHT,
    "left": drawings.LEFT,
    "right": drawings.WIDTH - drawings.RIGHT,
    "top": drawings.TOP,
    "floor": drawings.HEIGHT - drawings.BOTTOM,
}


def page(template: str, **content: Any) -> str:
    """A page from a template that extends `base.html.j2`; all content is escaped."""
    style, scripts = _source("page.css"), [_source("sort.js")]
    if content.get("viewer") is not None:
        style += _source("viewer.css")
        scripts.append(_source("viewer.js"))
    return render_template(
        template,
        style=style,
        scripts=scripts,
        style_hash=_digest(style),
        script_hashes=[_digest(script) for script in scripts],
        size=_SIZE,
        **content,
    )


def render_template(template: str, **content: Any) -> str:
    """A template with its content, all of which is escaped."""
    return _TEMPLATES.get_template(template).render(**content)


def _source(name: str) -> str:
    loader = _TEMPLATES.loader
    assert loader is not None
    return loader.get_source(_TEMPLATES, name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
