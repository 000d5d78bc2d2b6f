"""What self-contained HTML pages share: escaping templates, and a policy that bars all requests.

A page's own style and script are named by their digests; the browser runs nothing else, whatever a
name in the page may hold, and asks no other machine for anything.
"""

import base64
import hashlib
from typing import Any

import jinja2

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("lm_eval_specfair.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, **values: Any) -> str:
    """A page from one of the package's templates.

    Args:
        template: Its file name; it extends `comparison_page.html.j2`.
        values: What it shows; all text is escaped.
    """
    style = _source("comparison.css")
    script = _source("comparison.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return _TEMPLATES.get_template(template).render(
        style=style, script=script, policy=policy, **values
    )


def _source(name: str) -> str:
    loader = _TEMPLATES.loader
    assert loader is not None
    return loader.get_source(_TEMPLATES, name)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
