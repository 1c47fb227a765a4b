"""What the networks of a dual are: those given, checked, or those by default."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..nn import QuadraticICNN
from ..nn._shapes import whole
from ._methods import AbstractConjugation, Map, Potential


_LEAST_WIDTH = 64


class Gradient(eqx.Module):
    """The gradient of a function of one point, as a map."""

    function: Potential

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jax.grad(self.function)(x)


class NearIdentity(eqx.Module):
    """A map of points that begins as the identity: the predictor of `Amortised` by default."""

    moves: eqx.nn.MLP

    def __init__(self, size: int, width: int, *, key: PRNGKeyArray):
        """**Arguments:**

        - `size`: the size of the points.
        - `width`: that of the two hidden layers.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        size, width = whole(size, "size"), whole(width, "width")
        moves = eqx.nn.MLP(size, size, width, 2, jax.nn.silu, key=key)
        last = lambda mlp: (mlp.layers[-1].weight, mlp.layers[-1].bias)
        self.moves = eqx.tree_at(last, moves, replace_fn=jnp.zeros_like)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The image of one point."""
        return x + self.moves(x)


def default_networks(
    method: AbstractConjugation, size: int, dtype: jnp.dtype, key: PRNGKeyArray
) -> tuple[Potential, Map]:
    """A convex potential, and a predictor of the kind that the method is for."""
    width = max(2 * size, _LEAST_WIDTH)
    key_potential, key_predictor = jr.split(key)
    potential = QuadraticICNN(size, width=width, key=key_potential)
    if method.convex_predictor:
        predictor = Gradient(QuadraticICNN(size, width=width, key=key_predictor))
    else:
        predictor = NearIdentity(size, 2 * width, key=key_predictor)
    cast = lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf
    return jax.tree.map(cast, (potential, predictor))


def checked_networks(networks: PyTree, point: jax.ShapeDtypeStruct) -> tuple[Potential, Map]:
    """The potential, and the predictor as a map.

    **Raises:** `ValueError` if they are not a function and a map of one point.
    """
    if not isinstance(networks, tuple) or len(networks) != 2 or not all(map(callable, networks)):
        raise ValueError(
            "`networks` must be a pair (potential, predictor) of functions of one point, got "
            f"{networks!r}."
        )
    potential, predictor = networks
    value, guess = (eqx.filter_eval_shape(network, point) for network in networks)
    if _kind(value) != ((), point.dtype):
        raise ValueError(
            f"`networks[0]` must map one point, of shape {point.shape} and dtype {point.dtype}, to "
            f"a scalar of that dtype, got {value}."
        )
    if _kind(guess) == ((), point.dtype):
        return potential, Gradient(predictor)
    if _kind(guess) != (point.shape, point.dtype):
        raise ValueError(
            f"`networks[1]` must map one point, of shape {point.shape} and dtype {point.dtype}, to "
            f"a point or to a scalar of that dtype, got {guess}."
        )
    return potential, predictor


def _kind(out: object) -> tuple:
    return getattr(out, "shape", None), getattr(out, "dtype", None)
