"""mkdocs hook: the formulas of a page as MathML, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(page_html: str, /, **_: Any) -> str:
    """Called by mkdocs with the body of each page."""
    return FORMULA.sub(_mathml, page_html)


def _mathml(formula: re.Match[str]) -> str:
    _, opening, latex = formula.groups()
    return convert(html.unescape(latex), display="block" if opening == "[" else "inline")
