"""The package as users get it: built, installed where the tree is not, and with its types."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import helpers
import jax
import pytest


ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.slow

USER_FILE = """
import jax
import otjax
from otjax import flow, gan, nn

x = jax.numpy.zeros((3, 2))
problem = otjax.EntropicProblem(otjax.PointCloud(x, x), epsilon=0.1)
solution: otjax.Solution = otjax.solve(problem, otjax.Sinkhorn(tolerance=1e-3))
steps: jax.Array = solution.stats.num_steps
f, g = solution.potentials
total: jax.Array = f + g
text: str = otjax.RESULTS[solution.result]
critic = nn.MLPCritic(2, key=jax.random.key(0))
loss: jax.Array = gan.critic_loss(critic, x, x)
coupling: flow.AbstractCoupling = flow.Minibatch(epsilon=0.1)
wrong: str = solution.value  # error
otjax.solve(problem, epsilon=0.1)  # error
otjax.Sinkhorn(tolerence=1e-3)  # error
solution.potentails  # error
"""


def run(*command, **options):
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **options
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of an unpacked source distribution, so that neither needs more than what it holds."""
    out = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build")
    run(*build, "--target", "sdist", "--directory", out, cwd=ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    unpacked = out / sdist.name.removesuffix(".tar.gz")
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "tests/conftest.py"):
        assert (unpacked / name).is_file(), name
    run(*build, "--target", "wheel", "--directory", out, cwd=unpacked)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def fresh_python(wheel, tmp_path_factory):
    """An environment with the wheel, and with the dependencies of the one that runs this."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", packages, wheel)
    # A path in such a file is searched, but an editable install behind it is not followed.
    (packages / "dependencies.pth").write_text(f"{Path(jax.__file__).parents[1]}\n")
    return folder / "bin" / "python"


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "otjax").rglob("*.py")}
    assert modules | {"otjax/py.typed"} == {name for name in names if name.startswith("otjax/")}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"otjax"}


def test_the_first_example_runs_without_the_tree(fresh_python, tmp_path):
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert block
    where = "print(otjax.__version__, otjax.__file__, bool(jax.numpy.isfinite(value)))"
    # Isolated: neither the folder it is started in nor PYTHONPATH is searched.
    out = run(fresh_python, "-I", "-c", f"{block[1]}\n{where}", cwd=tmp_path)
    version, file, finite = out.splitlines()[-1].split()  # after what the example prints
    assert version == PROJECT["version"] and finite == "True"
    assert Path(file).is_relative_to(fresh_python.parents[1])


@helpers.skip_without("dev", "pyright")
def test_pyright_sees_the_types(fresh_python, tmp_path):
    (tmp_path / "user.py").write_text(USER_FILE)
    finished = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", fresh_python, "--outputjson", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = json.loads(finished.stdout)["generalDiagnostics"]
    errors = {
        entry["range"]["start"]["line"]: entry for entry in found if entry["severity"] == "error"
    }
    expected = {n for n, line in enumerate(USER_FILE.splitlines()) if line.endswith("# error")}
    assert set(errors) == expected, json.dumps(found, indent=1)
