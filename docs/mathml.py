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
        content = pattern.sub(lambda m, d=display: convert(html.unescape(m[1]), display=d), content)
    return content
