"""A MkDocs hook: the gallery shows each example's own code, output and picture.

`{{example: outliers}}` becomes the code of `examples/gallery/outliers.py`, what it printed
(`gallery/outliers.txt`) and what it drew (`gallery/outliers.png`); `<!-- wall -->` becomes the
pictures of all, each linked to its section. Run as a script it makes outputs and pictures anew:

    python docs/gallery.py              # all
    python docs/gallery.py outliers     # one
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


SCRIPTS = Path(__file__).parents[1] / "examples" / "gallery"
MADE = Path(__file__).parent / "gallery"
_SECTION = re.compile(r"^## (.+)\n\n\{\{example: (\w+)\}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    wall = " ".join(
        f"[![{title}](gallery/{name}.png){{ width=200 }}](#{_anchor(title)})"
        for title, name in _SECTION.findall(markdown)
    )
    filled = _SECTION.sub(lambda m: f"## {m[1]}\n\n{_section(m[1], m[2])}", markdown)
    return filled.replace("<!-- wall -->", wall)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(title: str, name: str) -> str:
    """The docstring as prose, then the picture, the output, and the code below its docstring."""
    _, text, code = (SCRIPTS / f"{name}.py").read_text().split('"""', 2)
    summary, _, rest = text.partition("\n\n")
    # The command says where the script is.
    command, _, more = rest.strip().partition("\n\n")
    return "\n\n".join(
        [
            summary.strip(),
            more.strip(),
            f"![{title}](gallery/{name}.png)",
            f"```sh\n{command.split('    #')[0].strip()}\n```",
            f"```text\n{(MADE / f'{name}.txt').read_text().strip()}\n```",
            f"```python\n{code.strip()}\n```",
        ]
    )


def make(name: str) -> None:
    """Runs an example as a reader does, and keeps its output and picture."""
    with tempfile.TemporaryDirectory() as folder:
        output = subprocess.run(
            [sys.executable, SCRIPTS / f"{name}.py"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        shutil.copy(Path(folder, f"{name}.png"), MADE)
    (MADE / f"{name}.txt").write_text(output)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in SCRIPTS.glob("*.py")):
        print(name, flush=True)
        make(name)
