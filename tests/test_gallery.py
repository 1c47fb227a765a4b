"""The gallery: short scripts, each with its picture and section, that do what they print."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import helpers
import pytest


ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem: path for path in sorted((ROOT / "examples/gallery").glob("*.py"))}
NEEDED = dict.fromkeys(("colours", "jigsaw", "mean_digits"), "sklearn")


def test_every_example_has_its_section_and_small_pictures():
    page = (ROOT / "docs/gallery.md").read_text()
    assert sorted(re.findall(r"^\{\{example: (\w+)\}\}$", page, re.MULTILINE)) == list(SCRIPTS)
    total = 0
    for name, script in SCRIPTS.items():
        assert len(script.read_text().splitlines()) <= 90, name
        picture = (ROOT / f"docs/gallery/{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG\r\n") and len(picture) <= 150_000, name
        total += len(picture)
        assert (ROOT / f"docs/gallery/{name}.txt").read_text().strip(), name
    assert total <= 2_000_000


def _falls(numbers):
    first, last = numbers[-2:]
    return 0 <= last < 0.2 * first


# Whether the numbers in an output say that the example worked.
WORKS = {
    "around_obstacles": lambda n: abs(n[0] - n[1]) < 0.01 and n[2] > 2 * n[1],
    "cell_trajectories": lambda n: n[1] > 90 and 1.1 < n[2] < n[3] + 0.2,
    "cells_of_equal_area": lambda n: n[0] < 0.5 and n[1] > 2 and 0.9 < n[2] < n[3] < 1.1,
    "colours": _falls,
    "data_parallel": _falls,
    "domain_adaptation": lambda n: n[1] > 85 > n[0],
    "drift": _falls,
    "generator_without_critic": lambda n: n[1] > 3 * n[2] and n[2] < 2 * n[3],
    "gradient_flow": lambda n: n[1] < n[0] and n[-1] < 0.3 * n[-2],
    "images_on_a_grid": lambda n: abs(n[1] - n[0]) < 0.02,
    "jigsaw": lambda n: n[1] > 90 > 50 > n[0],
    "learnable_cost": lambda n: n[0] + n[1] > 0.8 and n[-1] > 90 > n[-2],
    "learning_to_rank": lambda n: n[2] * 1.01 > n[1] > 0.8 > n[0],
    "line_and_slices": _falls,
    "matching_a_flow": lambda n: n[6] < n[0] and n[10] < n[4],  # by transport and at random
    "mean_digits": lambda n: n[2] < 1.2 * n[0] < n[1],
    "neural_map": lambda n: n[3] < 0.2 * n[2],
    "outliers": lambda n: n[0] > 8 > 1 > n[-1],  # percent of the mass, 10 where it must move
    "partial_transport": lambda n: n[2] < 0.1 < n[0] and n[1] > 0.1,
    "potentials": lambda n: 0.5 < n[0] < n[1] < 1.05,
    "ragged_sets": lambda n: abs(n[0] - n[1]) < 1e-4 and n[2] > 80,
    "shapes": lambda n: n[1] < 0.1 * n[0],
    "three_ways": lambda n: n[1] < 0.1 * n[0] and n[3] < 0.1 * n[2],
    "wasserstein_gan": lambda n: n[2] < 0.3 * n[1] and n[2] < 2.5 * n[3],
}


def _numbers(output):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", output)]


def test_the_outputs_on_the_page_are_of_examples_that_worked():
    assert sorted(WORKS) == list(SCRIPTS)
    for name, works in WORKS.items():
        output = (ROOT / f"docs/gallery/{name}.txt").read_text()
        assert works(_numbers(output)), (name, output)


@pytest.mark.slow
@helpers.skip_without("examples", "matplotlib")
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_runs_and_works(name, tmp_path):
    needed = NEEDED.get(name, "jax")
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    finished = subprocess.run(
        [sys.executable, SCRIPTS[name]],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert WORKS[name](_numbers(finished.stdout)), finished.stdout
