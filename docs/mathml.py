"""A MkDocs hook: TeX formulas become MathML, which browsers show without any script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert


_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    for pattern, display in ((_INLINE, "inline"), (_DISPLAY, "block")):
        content = pattern.sub(lambda m, d=display: _mathml(html.unescape(m[1]), d), content)
    return content


def _mathml(tex: str, display: str) -> str:
    # TeX sets a logarithm off from letters at its sides, and what is minimised over below the word.
    tex = re.sub(r"(?<=[\w}]) *\\log(?![a-z])", r"\\,\\log", tex)
    tex = re.sub(r"\\log +(?=[\w\\])", r"\\log\\,", tex)
    if display == "block":
        tex = re.sub(r"\\(min|max|inf|sup)_", r"\\\1\\limits_", tex)
    return convert(tex, display=display)
