"""Settings under which the library must pass: double precision available, nothing implicit."""

import os
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest


# What users compile must be tested too: `.ci/run` runs a part of the tests so.
AS_USERS_COMPILE = os.environ.get("OTJAX_TESTS_AS_USERS_COMPILE") == "1"

# Problems are tiny and their programs many: compilation takes most of the time. XLA's older
# emitter of fused loops compiles them three times as fast; later versions do not have it.
if jax.__version_info__ < (0, 11) and not AS_USERS_COMPILE:
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    )

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Nor do the compiler's costly passes pay.
jax.config.update("jax_disable_most_optimizations", not AS_USERS_COMPILE)

hypothesis.settings.register_profile("otjax", deadline=None, max_examples=5, derandomize=True)
hypothesis.settings.load_profile("otjax")

MOST_MEMORY_MAPS = 20_000  # Linux allows a process 65,530


SLOW = {
    line
    for line in (Path(__file__).parent / "slow.txt").read_text().splitlines()
    if not line.startswith("#")
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.removeprefix("tests/") in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def jax_as_users_have_it():
    """Without the settings above, for scripts that are run as a whole."""
    settings = {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def unchecked():
    """What users see, who run no type checker that would complain first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Each compiled program holds some memory maps; XLA aborts when the system grants no more."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MEMORY_MAPS:
        jax.clear_caches()
