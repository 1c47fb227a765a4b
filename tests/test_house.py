"""The house around the library: what the pages say is what the code does."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import inspect
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import otjax
import otjax.testing


ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(
    path.relative_to(ROOT / "otjax").as_posix() for path in (ROOT / "otjax").rglob("*.py")
)
PUBLIC = {
    prefix + name: value
    for prefix, namespace in {
        "": otjax,
        "flow.": otjax.flow,
        "gan.": otjax.gan,
        "neural.": otjax.neural,
        "nn.": otjax.nn,
    }.items()
    for name, value in sorted(vars(namespace).items())
    if not name.startswith("_") and not inspect.ismodule(value)
}
if importlib.util.find_spec("matplotlib"):
    import otjax.plot

    PUBLIC |= {
        f"plot.{name}": value
        for name, value in sorted(vars(otjax.plot).items())
        if not name.startswith("_") and not inspect.ismodule(value)
    }
# A module by itself, which has its imports beside what it defines.
PUBLIC |= {
    f"testing.{name}": value
    for name, value in sorted(vars(otjax.testing).items())
    if not name.startswith("_") and getattr(value, "__module__", None) == "otjax.testing"
}


REFERENCE = "".join((ROOT / "docs" / page).read_text() for page in ("api.md", "plot.md"))


def _run(*command, **options):
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, **options
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished.stdout


def _code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        pytest.param("docs/guide.md", marks=pytest.mark.slow),
        pytest.param("docs/theory.md", marks=pytest.mark.slow),
        pytest.param("docs/extending.md", marks=pytest.mark.slow),
        pytest.param("docs/devices.md", marks=pytest.mark.slow),
    ],
)
def test_the_python_of_a_page_runs_in_one_go(page):
    # In a process of its own, with JAX as a reader finds it, not as the tests configure it.
    blocks = _code_blocks(ROOT / page, "python")
    assert blocks
    _run(sys.executable, "-c", "\n".join(blocks))


def test_the_index_of_the_docs_shows_the_code_of_the_readme():
    assert _code_blocks(ROOT / "docs/index.md", "python") == _code_blocks(
        ROOT / "README.md", "python"
    )


def test_the_readme_starts_with_the_example_and_the_tests():
    example, tests = (block.strip() for block in _code_blocks(ROOT / "README.md", "sh"))
    assert (ROOT / example.split()[-1]).is_file()
    assert tests.endswith(".venv/bin/pytest -n 2")
    extras = PROJECT["optional-dependencies"]
    for command in (example, tests):
        asked = re.match(
            r'python3 -m venv \.venv && \.venv/bin/pip install -e "\.\[(.*?)\]" && ', command
        )
        assert asked and set(asked[1].split(",")) <= set(extras)


def test_the_times_in_the_readme_are_those_of_the_benchmark():
    page = (ROOT / "docs/benchmarks.md").read_text()
    cells = lambda line: [cell.strip() for cell in line.strip("|").split("|")]
    measured = [cells(line) for line in page.splitlines() if line.startswith("| ")]
    titles, _, *rows = (
        cells(line)
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| ")
    )
    columns = [measured[0].index("data" if title == "points" else title) for title in titles]
    shown = [
        [re.sub(r" \(.*?\)", "", row[column]) for column in columns]
        for row in measured
        if len(row) == len(measured[0])
    ]
    assert len(rows) >= 5 and all(row in shown for row in rows)
    text = (ROOT / "README.md").read_text()
    (other,) = re.findall(r"\(([\d.]+x) ", text)
    assert f" {other}" in page


def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci/run").read_text()
    (extraction,) = re.findall(r"^line=\$\((awk .*)\)$", script, re.MULTILINE)
    extracted = _run("bash", "-c", extraction).strip()
    assert extracted == _code_blocks(ROOT / "README.md", "sh")[1].strip()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name):
    # `__doc__` of an equinox module without a docstring of its own is inherited or made up.
    value = PUBLIC[name]
    assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert re.search(rf"^::: otjax\.{re.escape(name)}$", REFERENCE, re.MULTILINE)


def test_the_reference_lists_nothing_else():
    listed = re.findall(r"^::: otjax\.([\w.]+)$", REFERENCE, re.MULTILINE)
    assert set(listed) <= set(PUBLIC)
    assert len(listed) == len(set(listed))


def test_one_version_everywhere():
    version = PROJECT["version"]
    assert otjax.__version__ == importlib.metadata.version("otjax") == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## .*\b{re.escape(version)}\b", changes, re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_and_imports_what_is_declared(module):
    source = (ROOT / "otjax" / module).read_text()
    assert len(source.splitlines()) < 300
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", source, re.MULTILINE))
    declared = PROJECT["dependencies"]
    if module.startswith("plot/"):  # which `import otjax` leaves alone
        declared = declared + PROJECT["optional-dependencies"]["plot"] + ["numpy"]
    if module == "flow/_adaptive.py":  # which imports it when it is used
        declared = declared + PROJECT["optional-dependencies"]["diffrax"]
    allowed = {re.split(r"\W", dependency)[0] for dependency in declared}
    assert imported <= allowed | set(sys.stdlib_module_names)


def _lines_of_the_map():
    """The modules and folders that the architecture draws, in its order."""
    page = (ROOT / "docs/architecture.md").read_text()
    (map_,) = re.findall(r"^otjax/\n((?:  .*\n)+)", page, re.MULTILINE)
    folder = ""
    for indent, name in re.findall(r"^( +)(\S+)", map_, re.MULTILINE):
        folder = folder if len(indent) > 2 else ""
        yield folder + name
        if name.endswith("/"):
            folder = name


def _imports(module, source):
    """The modules of the house that a module imports, anywhere in it."""
    package = ["otjax", *module.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[1 : len(package) - node.level + 1] + (node.module or "").split(".")
            base = "".join(f"{part}/" for part in base if part)
            for name in (base + alias.name for alias in node.names):
                paths = f"{name}.py", f"{name}/__init__.py", f"{base}__init__.py", f"{base[:-1]}.py"
                imported = next(path for path in paths if path in MODULES)
                if imported != module:
                    yield imported


def _order(sources):
    """The modules, each after what it imports; a `CycleError` names those that go in a circle."""
    graph = {module: set(_imports(module, source)) for module, source in sources.items()}
    return list(graphlib.TopologicalSorter(graph).static_order())


SOURCES = {module: (ROOT / "otjax" / module).read_text() for module in MODULES}


def test_no_imports_go_in_a_circle():
    assert sorted(_order(SOURCES)) == MODULES


@pytest.mark.parametrize(
    "module, line",
    [
        ("_solver/_base.py", "from ._loop import AbstractAbsorbedSolver"),
        ("_solver/_base.py", "from . import Sinkhorn"),
        ("_reduction/_engine.py", "def f():\n    from ._kernel import apply"),
        ("_geometry/_base.py", "from .._geometry._cost_matrix import CostMatrix"),
        ("_arrays.py", "from ._solve import solve"),
    ],
)
def test_a_circle_is_seen(module, line):
    with pytest.raises(graphlib.CycleError):
        _order(SOURCES | {module: f"{SOURCES[module]}\n{line}\n"})


def test_the_map_of_the_house_is_complete_and_in_order():
    lines = list(_lines_of_the_map())
    assert len(lines) == len(set(lines))
    assert {line for line in lines if not line.endswith("/")} <= set(MODULES)
    last = {
        line: max(i for i, other in enumerate(lines) if other.startswith(line)) for line in lines
    }

    def place(module):
        """A module's line; that of its folder stands, at its end, for those that have none."""
        folder = module.rpartition("/")[0] + "/"
        assert module in last or folder in last, f"{module} is missing"
        return last[module if module in last else folder]

    for module in MODULES:
        if not module.endswith("__init__.py"):
            for imported in _imports(module, SOURCES[module]):
                above = place(imported) < place(module)
                beside = place(imported) == place(module) and module not in last
                assert above or beside, f"{module} must stand below {imported}"


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:3] == ["Apache", "License", "Version"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.split()) > 1500


def test_the_benchmark_runs(tmp_path):
    output = tmp_path / "report.json"
    script = ROOT / "benchmarks" / "accelerator.py"
    _run(sys.executable, script, "--quick", "--parts", "statuses", "--output", output)
    report = json.loads(output.read_text())
    assert report["passed"]
    assert len(report["records"]) == 7
    assert report["versions"]["otjax"] == otjax.__version__
