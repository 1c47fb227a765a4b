"""Sinkhorn's scalings of many small plans, each by one program that makes all steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float32

from ._blocks import Blocks, LEAST, power_of_two
from ._primitives import call, Elementwise, loop


# The largest plan, to either side.
MOST_POINTS = 256
# What the registers of one program hold, in numbers; a larger plan is read anew in each step.
_HELD = 128 * 128


def scale(
    K: Float32[Array, "b n m"],
    a: Float32[Array, "b n"],
    b: Float32[Array, "b m"],
    v: Float32[Array, "b m"],
    num_steps: int,
    *,
    exponents: Float32[Array, "b 2"] | None = None,
    interpret: bool = False,
) -> tuple[Float32[Array, "b n"], Float32[Array, "b m"], Float32[Array, " b"]]:
    r"""Repeats $u = (a / (K v))^{\lambda_a}$, $v = (b / (K^\top u))^{\lambda_b}$ in a batch of
    problems (Chizat et al. 2018, arXiv:1607.05816).

    **Arguments:**

    - `K`: plans, of at most `MOST_POINTS` rows and columns.
    - `a`, `b`: their masses. Where they are zero, so are the scalings.
    - `v`: where the scalings start from.
    - `num_steps`: at least one.
    - `exponents`: $\lambda_a$ and $\lambda_b$ of each problem, positive; `None` is 1, for balanced
        problems.
    - `interpret`: run on any device, slowly.

    **Returns:** `u`, `v`, and the L1 errors of both marginals together: of $u_i (K v)_i$ against
    $a_i u_i^{1 - 1 / \lambda_a}$, the mass that the scaling asks for, and likewise of the columns.
    If `K` has nothing where there is mass they are infinite or NaN.
    """
    if max(K.shape[1:]) > MOST_POINTS:
        raise ValueError(f"`K` must have sides of at most {MOST_POINTS}, got shape {K.shape}.")
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}.")
    return scale_with(K, a, b, v, num_steps, exponents, scale_blocks(*K.shape[1:]), interpret)


def scale_blocks(n: int, m: int) -> Blocks:
    """Rows that are in registers at a time, and the warps that have them.

    By the instructions and registers that the compiler reports for an NVIDIA H200; not measured.
    128 numbers a thread leave room for three problems of 128 x 128 on a multiprocessor, so that one
    computes while another waits.
    """
    n, m = _padded(n), _padded(m)
    rows = min(n, _HELD // m)
    return Blocks(rows=rows, columns=m, warps=min(4, max(1, rows * m // (32 * 64))))


def scale_with(
    K: Float32[Array, "b n m"],
    a: Float32[Array, "b n"],
    b: Float32[Array, "b m"],
    v: Float32[Array, "b m"],
    num_steps: int,
    exponents: Float32[Array, "b 2"] | None,
    blocks: Blocks,
    interpret: bool,
) -> tuple[Float32[Array, "b n"], Float32[Array, "b m"], Float32[Array, " b"]]:
    """The same in blocks of one's own choice."""
    batch, n, m = K.shape
    row, column = _padded(n) - n, _padded(m) - m
    K = jnp.pad(K, ((0, 0), (0, row), (0, column)))
    a = jnp.pad(a, ((0, 0), (0, row)))
    b, v = (jnp.pad(vector, ((0, 0), (0, column))) for vector in (b, v))
    powers = () if exponents is None else (exponents[:, :1], exponents[:, 1:])
    args = (K, a, b, v, powers)
    problem = lambda array: pl.BlockSpec(
        (None, *array.shape[1:]), lambda i: (i,) + (0,) * (array.ndim - 1)
    )
    shapes = [jax.ShapeDtypeStruct(z.shape, jnp.float32) for z in (a, b, a[:, :1])]

    def kernel(*refs):
        _kernel(*refs, num_steps=num_steps, rows=blocks.rows, interpret=interpret)

    u, v, error = call(
        kernel,
        grid=(batch,),
        in_specs=jax.tree.map(problem, args),
        out_specs=[problem(shape) for shape in shapes],
        out_shape=shapes,
        blocks=blocks,
        interpret=interpret,
    )(*args)
    return u[:, :n], v[:, :m], error[:, 0]


def _kernel(
    K: Any,
    a: Any,
    b: Any,
    v: Any,
    exponents: tuple[Any, ...],
    u_out: Any,
    v_out: Any,
    error_out: Any,
    *,
    num_steps: int,
    rows: int,
    interpret: bool,
) -> None:
    """All steps of one problem. A block of rows is looked at once a step: it gets its `u`, with
    which it adds to the sums of all columns."""
    of_rows, of_columns = (_Side(exponents[i:][:1], interpret) for i in (0, 1))
    blocks = K.shape[0] // rows
    held = K[...] if blocks == 1 else None
    b = b[...]

    def sweep(visit: Callable[[Any, Array, Any], Any], start: Any) -> Any:
        def body(i, carry):
            part = pl.ds(i * rows, rows)
            return visit(part, K[part, :], carry)

        if held is not None:
            return visit(pl.ds(0, rows), held, start)
        return loop(blocks, body, start)

    def step(_, pair):
        v = pair[1]

        def visit(part, block, sums):
            u = of_rows.scaling(a[part], jnp.sum(block * v[None, :], axis=1))
            return sums + jnp.sum(block * u[:, None], axis=0)

        return v, of_columns.scaling(b, sweep(visit, jnp.zeros_like(b)))

    start = jnp.where(b > 0, v[...], 0.0)
    last, v = loop(num_steps, step, (start, start))

    def check(part, block, carry):
        error, sums = carry
        u = of_rows.scaling(a[part], jnp.sum(block * last[None, :], axis=1))
        u_out[part] = u
        row = u * jnp.sum(block * v[None, :], axis=1)
        error = error + jnp.sum(jnp.abs(row - of_rows.target(a[part], u)))
        return error, sums + jnp.sum(block * u[:, None], axis=0)

    error, sums = sweep(check, (jnp.zeros((), jnp.float32), jnp.zeros_like(b)))
    v_out[...] = v
    error = error + jnp.sum(jnp.abs(v * sums - of_columns.target(b, v)))
    error_out[...] = jnp.broadcast_to(error, (1,))


class _Side:
    """The formulas of one side, whose exponent is `power` or 1."""

    def __init__(self, power: tuple[Any, ...], interpret: bool):
        self.power = power[0][...] if power else None
        self.elementwise = Elementwise(interpret)

    def scaling(self, mass: Array, sums: Array) -> Array:
        ratio = self.elementwise.divide(mass, jnp.where(mass > 0, sums, 1.0))
        return ratio if self.power is None else self.elementwise.power(ratio, self.power)

    def target(self, mass: Array, scaling: Array) -> Array:
        if self.power is None:
            return mass
        scaling = jnp.where(mass > 0, scaling, 1.0)
        return mass * self.elementwise.power(scaling, 1 - 1 / self.power)


def _padded(size: int) -> int:
    return max(LEAST, power_of_two(size))
