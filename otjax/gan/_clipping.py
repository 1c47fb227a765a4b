"""Weight clipping: the first way to bound a critic's slope."""

import operator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import ArrayLike, PyTree

from .._arrays import positive_number


Model = TypeVar("Model")


def _is_bias(path: tuple[Any, ...]) -> bool:
    """Whether a leaf is called `bias`, as Equinox (by attribute) and Flax (by key) call it."""
    last = path[-1] if path else None
    return "bias" in (getattr(last, "name", None), getattr(last, "key", None))


def clip_weights(critic: Model, limit: ArrayLike, *, biases: bool = True) -> Model:
    """The critic with its floating arrays clipped to [-limit, limit].

    After each step of its optimiser this keeps a critic in a compact set of functions, of a common
    though unknown Lipschitz constant (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875,
    algorithm 1, where the limit is 0.01). `keep_params_within` does the same inside an optimiser.

    **Arguments:**

    - `critic`: any pytree.
    - `limit`: a positive number; may be traced.
    - `biases`: whether arrays called `bias` are clipped too, as by Arjovsky et al.; they do not
        bear on the Lipschitz constant.

    **Raises:** `ValueError` if `limit` is not a positive number.
    """
    number = positive_number(limit, "limit")

    def clip(path: tuple[Any, ...], leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf) or (not biases and _is_bias(path)):
            return leaf
        bound = number.astype(leaf.dtype)
        return jnp.clip(leaf, -bound, bound)

    return jtu.tree_map_with_path(clip, critic)


def keep_params_within(
    limit: ArrayLike, *, biases: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Weight clipping as the last part of an optimiser, `optax.chain(optax.rmsprop(5e-5),
    keep_params_within(0.01))`: the updated parameters are in [-limit, limit], up to rounding.

    **Arguments** and **raises:** as `clip_weights`.
    """
    positive_number(limit, "limit")

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        del extra_args
        if params is None:
            raise ValueError("`params` must be given to the update of `keep_params_within`.")
        clipped = clip_weights(optax.apply_updates(params, updates), limit, biases=biases)
        return jax.tree.map(operator.sub, clipped, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
