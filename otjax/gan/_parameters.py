"""The parameters of a model, which are its floating arrays: their updates and averages."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .._arrays import single_at_least


Metrics: TypeAlias = dict[str, Array]
Aux = TypeVar("Aux")


def strong(tree: PyTree) -> PyTree:
    """Without weak types, which the first step would lose, to be compiled again for the second."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def trained(model: PyTree) -> PyTree:
    """The parameters alone."""
    return eqx.filter(model, eqx.is_inexact_array)


def update(
    loss_fn: Callable[[PyTree], tuple[Array, Aux]],
    optimiser: optax.GradientTransformation | None,
    model: PyTree,
    opt_state: PyTree,
) -> tuple[PyTree, PyTree, Array, Aux]:
    """One step down a loss: the new model and optimiser state, and the loss, and what comes with
    it, before."""
    if optimiser is None:
        raise ValueError("`critic_optimiser` must be given to update a critic.")
    (loss, aux), gradient = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model)
    parameters = trained(model)
    with jax.numpy_dtype_promotion("standard"):  # which optax relies on
        updates, opt_state = optax.with_extra_args_support(optimiser).update(
            gradient, opt_state, parameters, value=loss
        )
    # Moments may be of another precision than the model, whose own stays as it is.
    updates = jax.tree.map(lambda step, old: step.astype(old.dtype), updates, parameters)
    return eqx.apply_updates(model, updates), opt_state, loss, aux


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floating arrays are."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trained(tree))]
    return jnp.all(jnp.stack(finite))


def averaged(model: PyTree) -> PyTree:
    """The first average: the model, in single precision at least, since steps of an average are
    too small for half precision."""

    def widen(leaf: Any) -> Any:
        return leaf.astype(single_at_least(leaf.dtype)) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(widen, model)


def moved(average: PyTree, model: PyTree, decay: Float[Array, ""]) -> PyTree:
    """The exponential moving average of a model's parameters, one step further."""

    def move(old: Any, new: Any) -> Any:
        if not eqx.is_inexact_array(new):
            return new
        share = decay.astype(old.dtype)
        return share * old + (1 - share) * new.astype(old.dtype)

    return jax.tree.map(move, average, model)
