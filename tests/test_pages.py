"""The pages to start with, to come from elsewhere with, and to look up what failed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest

import otjax


ROOT = Path(__file__).resolve().parent.parent
PEERS = {"OTT-JAX": "ott", "POT": "ot", "GeomLoss": "geomloss", "torchcfm": "torchcfm"}
TOLERANCES = {"OTT-JAX": 1e-6, "POT": 1e-6, "GeomLoss": 1e-2, "torchcfm": 0.05}
NUM_TABS = {"OTT-JAX": 10, "POT": 11, "GeomLoss": 4, "torchcfm": 1}
RUN = """
import ast, json, sys
import numpy as np

shared, tabs = json.load(sys.stdin)
scope, found = {}, []
exec(shared, scope)
for task, code in tabs:
    exec(code, scope)
    if task == "Set up":
        continue
    (target,) = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)][-1].targets
    names = [node.id for node in ast.walk(target) if isinstance(node, ast.Name) and node.id != "_"]
    found.append([task, {name: np.asarray(scope[name]).tolist() for name in names}])
print(json.dumps(found))
"""


def _run(code, given=""):
    """In a process of its own, which compiles for speed of compilation."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=given,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "start.md",
        "faq.md",
        "failures.md",
        "theory.md",
        *sorted(f"guide/{page.name}" for page in (ROOT / "docs" / "guide").glob("*.md")),
        pytest.param("plot.md", marks=helpers.skip_without("plot", "matplotlib")),
    ],
)
def test_the_python_of_a_page_runs_in_one_go(page):
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    _run("\n".join(blocks))


def _tabs(page):
    """The blocks under a name, with their task, and the code shared by all, which has none."""
    first, *tasks = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    del first
    shared = ""
    for task in tasks:
        title = task.splitlines()[0]
        for tab, body in re.findall(
            r"^(?:\*\*(.*?)\*\*\n\n)?```python\n(.*?)^```", task, re.MULTILINE | re.DOTALL
        ):
            if tab:
                yield title, tab, body, shared
            else:
                shared += body


@pytest.fixture(scope="module")
def computed():
    """What the last line of each tab computes, by library: each is a program of its own."""
    done = {}

    def of(library):
        if library not in done:
            tabs = list(_tabs(ROOT / "docs/coming_from.md"))
            chosen = [(title, code) for title, tab, code, _ in tabs if tab.split(",")[0] == library]
            shared = tabs[-1][-1]
            output = _run(RUN, json.dumps([shared, chosen]))
            done[library] = json.loads(output.splitlines()[-1])
        return done[library]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, marks=helpers.skip_without("benchmarks", module))
        for peer, module in PEERS.items()
    ],
)
def test_each_line_computes_what_that_of_the_peer_does(computed, peer):
    ours, theirs = dict(computed("otjax")), computed(peer)
    assert len(theirs) == NUM_TABS[peer]
    for task, numbers in theirs:
        for name, number in numbers.items():
            np.testing.assert_allclose(
                number, ours[task][name], rtol=TOLERANCES[peer], atol=TOLERANCES[peer], err_msg=task
            )


def test_every_way_to_end_is_explained():
    page = (ROOT / "docs/failures.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    source = ast.parse((ROOT / "otjax/_results.py").read_text())
    (results,) = [node for node in source.body if getattr(node, "name", None) == "RESULTS"]
    assigned = [node.targets[0].id for node in results.body if isinstance(node, ast.Assign)]
    members = {name for name in assigned if not name.startswith("_")}
    assert len(members) == len(otjax.RESULTS) and members == set(sections)
    for name, text in sections.items():
        block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert block and re.search(rf"assert .* == otjax\.RESULTS\.{name}$", block[1], re.MULTILINE)
