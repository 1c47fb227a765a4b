"""Batches of small problems on an NVIDIA GPU: each solved, from start to end, by one program."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _pallas
from ._control import Way
from ._geometry import CostMatrix, HeldCloud
from ._solver import Outcome, Sinkhorn, SymmetricSinkhorn


# The most entries of a plan, padded: what the registers of a program hold beside all else.
MOST_ENTRIES = 2**15
# Entries of the plan in each thread. Fewer leave more registers for the rest of a solve.
_ENTRIES_PER_THREAD = 64


class Machine(NamedTuple):
    """Where such kernels run."""

    platform: str
    interpret: bool


def _machine() -> Machine | None:
    """The one that JAX computes on, if kernels run there."""
    return Machine("cuda", interpret=False) if _pallas.run_here() else None


def solves_at_once(
    size: int,
    args: tuple[PyTree, ...],
    batched: PyTree[bool],
) -> Way | None:
    """A batch of problems in one kernel, where it is of small ones in single precision whose costs
    are held. Each has a program of its own, and ends as if it were alone. `args` are those of
    `AbstractSolver.run`, the solver first.

    Sizes are padded to powers of two by points of mass zero, each at the place of the last point.
    """
    machine, (args, batched) = _machine(), (_by_matrix(args), _by_matrix(batched))
    solver, problem, *_ = args
    if (
        machine is None
        or not isinstance(solver, Sinkhorn | SymmetricSinkhorn)
        or not isinstance(problem.geometry, CostMatrix)
    ):
        return None
    n, m = problem.geometry.matrix.shape[-2:]
    if not (isinstance(n, int) and isinstance(m, int)):
        return None
    padded = lambda side: max(16, 1 << (side - 1).bit_length())
    shape = padded(n), padded(m)
    if problem.geometry.dtype != jnp.float32 or math.prod(shape) > MOST_ENTRIES:
        return None

    def run(*leaves: Array) -> Outcome:
        one = eqx.combine(jax.tree.unflatten(tree, leaves), static)
        return type(one[0]).run(*one)

    arrays, static = eqx.partition(args, eqx.is_array)
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda arrays: _pad(arrays, shape), arrays))
    flags = tuple(jax.tree.leaves(batched))
    members = [
        jax.ShapeDtypeStruct(leaf.shape[1:] if flag else leaf.shape, leaf.dtype)
        for leaf, flag in zip(leaves, flags, strict=True)
    ]
    programs = _pallas.Programs.of(run, *members)
    if programs is None:
        return None
    warps = max(1, min(16, math.prod(shape) // (32 * _ENTRIES_PER_THREAD)))

    def compute(args: tuple[PyTree, ...]) -> Outcome:
        arrays = eqx.filter(_by_matrix(args), eqx.is_array)
        leaves = jax.tree.leaves(_pad(arrays, shape))
        outcome = programs(size, *leaves, batched=flags, warps=warps, interpret=machine.interpret)
        cut = lambda pair: (pair[0][..., :n], pair[1][..., :m])
        f, g = cut((outcome.f, outcome.g))
        where = lambda outcome: (outcome.f, outcome.g, outcome.marginals)
        return eqx.tree_at(where, outcome, (f, g, cut(outcome.marginals)))

    return Way(machine.platform, compute)


def _by_matrix(args: PyTree) -> PyTree:
    """The arguments of a solve without the points, whose costs are held."""
    solver, problem, *rest = args
    if isinstance(problem.geometry, HeldCloud):
        problem = eqx.tree_at(lambda problem: problem.geometry.cloud, problem, None)
    return solver, problem, *rest


def _pad(args: PyTree, shape: tuple[int, int]) -> PyTree:
    """The arguments of a solve, whose arrays may have further axes in front, for more points."""

    def padded(array: Array, sizes: tuple[int, ...], mode: str) -> Array:
        missing = [size - old for size, old in zip(sizes, array.shape[-len(sizes) :], strict=True)]
        widths = [(0, 0)] * (array.ndim - len(sizes)) + [(0, more) for more in missing]
        return jnp.pad(array, widths, mode=mode)

    solver, problem, init, max_steps = args
    (n, m), where = shape, lambda problem: (problem.geometry.matrix, problem.a, problem.b)
    matrix, a, b = where(problem)
    replaced = (
        padded(matrix, shape, "edge"),
        padded(a, (n,), "constant"),
        padded(b, (m,), "constant"),
    )
    if init is not None:
        init = padded(init[0], (n,), "edge"), padded(init[1], (m,), "edge")
    return solver, eqx.tree_at(where, problem, replaced), init, max_steps
