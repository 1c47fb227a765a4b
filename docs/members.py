"""A MkDocs hook: what belongs to a page of the guide, with signatures.

`{{members: Solutions; Loss}}` becomes a list of the names under these headings of the reference.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any


REFERENCE = Path(__file__).parent / "api.md"
_LIST = re.compile(r"\{\{members: ([^}]+)\}\}")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return _LIST.sub(lambda m: "\n".join(map(_line, _names(m[1].split("; ")))), markdown)


def sections() -> dict[str, list[str]]:
    """The names under each heading of the reference."""
    parts = re.split(r"^## (.+)$", REFERENCE.read_text(), flags=re.MULTILINE)[1:]
    listed = (re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE) for text in parts[1::2])
    return dict(zip(parts[::2], listed, strict=True))


def _names(headings: list[str]) -> list[str]:
    return [name for heading in headings for name in sections()[heading]]


def _line(name: str) -> str:
    module, _, last = name.rpartition(".")
    member = getattr(importlib.import_module(module), last)
    says = re.split(r"(?<=[.:])(?<!al\.)\s|\n\n", inspect.getdoc(member) or "", maxsplit=1)[0]
    says = " ".join(says.split()).rstrip(".:")
    return f"- [`{name.removeprefix('otjax.')}{_signature(member)}`][{name}]: {says}."


def _signature(member: Any) -> str:
    """Names and defaults of parameters; nothing of what is only ever returned, or derived from."""
    if not callable(member) or inspect.isabstract(member):
        return ""
    parameters = inspect.signature(member).parameters.values()
    is_told = not inspect.isclass(member) or member.__init__.__doc__ or not parameters
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    return str(inspect.Signature(bare)) if is_told else ""
