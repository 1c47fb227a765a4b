r"""The two reductions as JAX sees them: differentiable at any order in both modes, transposable,
and batched, whatever the engine that computes them.

With $P_{ij} = \exp(s_{ij})$, $s_{ij} = (f_i + g_j - C_{ij}) / \epsilon$, the operation is $P V$.

- Its transpose, a linear function of $V$, is $P^T U$: the same operation with the sides exchanged.
- Its tangent is $(P \circ \dot s) V + P \dot V$. Where the cost is a product of factors,
  $C = U W^T$, so is $\dot s = L R^T$, and $(P \circ L R^T) V = \sum_r L_r \circ P (R_r \circ V)$ is
  the same operation on more columns. Other costs are differentiated a block of rows at a time.
- A soft minimum has the tangent of $-\epsilon P 1$, with $P$ at itself.
"""

import functools as ft

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._unit import over
from .._varying import alike
from ._engine import AbstractEngine
from ._pairs import Pairs
from ._streamed import apply_by_rows


def apply(
    engine: AbstractEngine,
    pairs: Pairs,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    epsilon: Float[Array, ""],
    columns: Float[Array, "m k"],
) -> Float[Array, "n k"]:
    r"""$\sum_j \exp((f_i + g_j - C_{ij}) / \epsilon) V_{jk}$, in the dtype of `columns`."""
    engine, *arrays = alike((engine, pairs, f, g, epsilon, columns))
    return eqxi.filter_primitive_bind(_apply_p, engine, *arrays)


@eqx.filter_custom_jvp
def softmin(engine, pairs, h, epsilon):
    r"""For each row $i$, $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""
    return engine.softmin(pairs, h, epsilon)


@softmin.def_jvp
def _softmin_jvp(primals, tangents):
    engine, pairs, h, epsilon = primals
    _, t_pairs, t_h, t_epsilon = tangents
    # Through the rule itself, so that second derivatives move it as well.
    f = softmin(engine, pairs, h, epsilon)
    ones = jnp.ones_like(h)[:, None]
    _, tangent = eqx.filter_jvp(
        lambda pairs, h, epsilon: apply(engine, pairs, f, h, epsilon, ones)[:, 0],
        (pairs, h, epsilon),
        (t_pairs, t_h, t_epsilon),
    )
    return f, -epsilon * tangent


def _impl(engine, pairs, f, g, epsilon, columns):
    return engine.apply(pairs, f, g, epsilon, columns)


def _abstract_eval(engine, pairs, f, g, epsilon, columns):
    del engine, pairs, g, epsilon
    return columns.update(shape=(f.shape[0], columns.shape[1]))


def _jvp(primals, tangents):
    at = ft.partial(apply, *primals[:5])
    scores, columns = primals[1:5], primals[5]
    t_scores, t_columns = tangents[1:5], tangents[5]
    factors = _tangent_factors(scores, t_scores)
    if factors is None:
        in_blocks = ft.partial(apply_by_rows, columns=columns, block=None)
        _, tangent = eqx.filter_jvp(in_blocks, scores, t_scores)
        return at(columns), tangent if t_columns is None else tangent + at(t_columns)
    # The result and what a tangent multiplies in one application, and all tangents in another.
    moving_rows, moving_columns = factors
    k = columns.shape[1]
    fixed = [columns, *(_times(right, columns) for _, right in moving_rows)]
    moved = [_times(right, columns) for _, right in moving_columns]
    moved += [] if t_columns is None else [t_columns]
    product = at(jnp.concatenate(fixed, axis=1))
    out, tangent = product[:, :k], _contract([left for left, _ in moving_rows], product[:, k:], k)
    if moved:
        product = at(jnp.concatenate(moved, axis=1))
        tangent += _contract([left for left, _ in moving_columns], product, k)
        tangent += 0 if t_columns is None else product[:, -k:]
    return out, tangent


def _times(right: Float[Array, "m r"], columns: Float[Array, "m k"]) -> Float[Array, "m rk"]:
    right = right.astype(columns.dtype)
    return (right[:, :, None] * columns[:, None, :]).reshape(right.shape[0], -1)


def _contract(lefts, product: Float[Array, "n rest"], k: int) -> Float[Array, "n k"]:
    """The sum over r of a left factor's column times the product with the right one's."""
    if not lefts:
        return jnp.zeros((product.shape[0], k), product.dtype)
    left = jnp.concatenate(lefts, axis=1).astype(product.dtype)
    weighted = product[:, : left.shape[1] * k].reshape(*left.shape, k)
    return jnp.sum(left[:, :, None] * weighted, axis=1)


def _tangent_factors(scores, tangents):
    """Pairs (L, R) whose products sum to the tangent of the scores: those whose L is linear in the
    tangents, then those whose R is. None where the cost has no factors."""
    pairs, f, g, epsilon = scores
    t_pairs, t_f, t_g, t_epsilon = tangents
    moves_cost = len(jax.tree.leaves(t_pairs)) > 0
    if (moves_cost or t_epsilon is not None) and pairs.factors() is None:
        return None
    ones_f, ones_g = jnp.ones_like(f)[:, None], jnp.ones_like(g)[:, None]
    rows, columns = [], []
    if t_f is not None:
        rows.append(((t_f / epsilon)[:, None], ones_g))
    if t_g is not None:
        columns.append((ones_f, (t_g / epsilon)[:, None]))
    if moves_cost:
        (u, w), t_cost = pairs.factors(), jax.tree.leaves(t_pairs.cost)
        moved = lambda side: eqx.filter_jvp(lambda p: p.factors()[side], (pairs,), (t_pairs,))[1]
        # Nothing is multiplied with the zero tangent of points that stay.
        if t_cost or t_pairs.x is not None:
            rows.append((-moved(0) / epsilon, w))
        if t_cost or t_pairs.y is not None:
            columns.append((u, -moved(1) / epsilon))
    if t_epsilon is not None:
        u, w = pairs.factors()
        # Relative to epsilon, whose square is soon too large or small.
        rate = -t_epsilon / epsilon
        # Nothing of a point that is not there, whose potential is -inf, is in the sum.
        there = over(jnp.where(jnp.isfinite(g), g, 0), epsilon)
        f, u = over(f, epsilon), over(u, epsilon)
        left = jnp.concatenate([(rate * f)[:, None], rate * ones_f, -rate * u], axis=1)
        rows.append((left, jnp.concatenate([ones_g, there[:, None], w], axis=1)))
    return rows, columns


def _transpose(inputs, cotangent):
    engine, pairs, f, g, epsilon, _ = inputs
    nothing = jax.tree.map(lambda _: None, (engine, pairs, f, g, epsilon))
    if cotangent is None:
        return *nothing, None
    return *nothing, apply(engine, pairs.T, g, f, epsilon, cotangent)


_apply_p = eqxi.create_vprim(
    "otjax_apply",
    eqxi.filter_primitive_def(_impl),
    eqxi.filter_primitive_def(_abstract_eval),
    eqxi.filter_primitive_jvp(_jvp),
    eqxi.filter_primitive_transpose(_transpose),
)
