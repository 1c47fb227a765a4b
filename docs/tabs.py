"""A MkDocs hook: blocks of code under names in bold, one after the other, become tabs.

In the Markdown itself, as a code host shows it, they stay blocks under their names.
"""

import re
import textwrap
from typing import Any


_NAMED = re.compile(r"^\*\*([^*\n]+)\*\*\n\n(```\w+\n.*?^```)$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return _NAMED.sub(lambda m: f'=== "{m[1]}"\n\n{textwrap.indent(m[2], "    ")}', markdown)
