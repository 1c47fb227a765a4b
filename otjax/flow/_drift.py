"""Drifts: where samples should go next to come nearer to data, and the loss made of them."""

import abc
from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import equinox as eqx
import jax
import jax.core
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._results import RESULTS
from .._solution import Solution
from ._batches import all_finite, batch, cleaned, nan_unless, two_batches


class DriftSolutions(NamedTuple):
    """The solutions behind a drift, one for each temperature, stacked: between the samples and the
    data, and of the samples with themselves."""

    xy: Solution
    xx: Solution


class Drift(eqx.Module):
    r"""A drift at samples, and what tells how far there is to go.

    - `field`: the drift of each sample, of the shape of the samples, in their unit.
    - `size`: $\sqrt{\mathbb{E}\|V\|^2}$ before any normalisation, over all temperatures: it falls
      as the samples come nearer, where the loss of a normalised drift is constant.
    - `w2`: the root of the Sinkhorn divergence from the data, in the unit of the samples.
    - `solutions`: what `SinkhornDrift` starts from the next time; None for others.
    - `result`: a member of `RESULTS`.
    """

    field: Float[Array, "n ..."]
    size: Float[Array, ""]
    w2: Float[Array, ""]
    solutions: DriftSolutions | None
    result: RESULTS


class AbstractDrift(eqx.Module):
    """A displacement of samples towards data, which vanishes where the two laws are equal.

    Nothing is differentiated through it.
    """

    @abc.abstractmethod
    def __call__(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "n ..."]:
        """The drift of each sample, like `x`; arguments as `evaluate`."""

    @abc.abstractmethod
    def evaluate(self, x: ArrayLike, y: ArrayLike, init: Drift | None = None) -> Drift:
        """The drift at samples, with what else is known about it.

        **Arguments:**

        - `x`: the samples that are to move, shape (n, ...).
        - `y`: the data, shape (m, ...).
        - `init`: what an earlier call returned, to start from; the batches may be others.

        **Raises:** `ValueError` for batches that do not fit.
        """


def _all_positive(numbers: Array) -> bool:
    # On the host, as even constants are traced when JAX computes with them under `jit`.
    return all(number > 0 for number in jax.device_get(numbers).ravel().tolist())


def positive_numbers(value: ArrayLike | tuple[float, ...], name: str) -> Float[Array, " k"]:
    """Returns one positive number or several, as a vector. Traced numbers are not checked.

    **Raises:** `ValueError`, naming the argument.
    """
    numbers = jnp.asarray(value)
    if numbers.ndim > 1 or numbers.size == 0 or not jnp.issubdtype(numbers.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be one floating number or several, shape (k,), got shape "
            f"{numbers.shape} and dtype {numbers.dtype}."
        )
    if not isinstance(numbers, jax.core.Tracer) and not _all_positive(numbers):
        raise ValueError(f"`{name}` must be positive, got {value!r}.")
    return jnp.atleast_1d(numbers).astype(jnp.result_type(float))


def root_mean_square(field: Float[Array, "n ..."]) -> Float[Array, ""]:
    """The root of the mean squared norm."""
    return jnp.sqrt(jnp.sum(jnp.square(field)) / len(field))


Generator = Callable[[Array], Array]


@overload
def drift_loss(
    generator: Generator,
    data: ArrayLike,
    drift: AbstractDrift,
    *,
    latents: ArrayLike,
    init: Drift | None = None,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def drift_loss(
    generator: Generator,
    data: ArrayLike,
    drift: AbstractDrift,
    *,
    latents: ArrayLike,
    init: Drift | None = None,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], Drift]: ...


@eqx.filter_jit
def drift_loss(
    generator: Generator,
    data: ArrayLike,
    drift: AbstractDrift,
    *,
    latents: ArrayLike,
    init: Drift | None = None,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Drift]:
    r"""The loss of a one-step generator that follows a drift (Deng et al. 2026, arXiv:2602.04770),

    $$\mathbb{E} \left\| G(z) - \bar{G}(z) - \bar{V}(G(z)) \right\|^2,$$

    where what is barred is held fixed: its value is $\mathbb{E}\|V\|^2$, and its gradient moves
    each sample along its drift. For a normalised drift the value is constant: log the `size` or the
    `w2` of the `Drift`.

    Invalid input (NaN or infinite samples or data) gives NaN, with gradient zero.

    **Arguments:**

    - `generator`: maps one latent to one sample; it is vmapped here. Any callable pytree.
    - `data`: samples of the data, shape (m, ...).
    - `drift`: `SinkhornDrift(epsilon)`, `MeanShift(...)`.
    - `latents`: what the generator maps, axes (n, ...).
    - `init`: the `Drift` of an earlier step, to start from.
    - `has_aux`: whether to return the `Drift` as well.

    **Returns:** the loss, in the squared unit of the samples; with `has_aux` the pair of it and the
    drift.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    if not callable(generator):
        raise ValueError(f"`generator` must be a callable of one latent, got {generator!r}.")
    if not isinstance(drift, AbstractDrift):
        raise ValueError(f"`drift` must be a drift such as `SinkhornDrift(0.1)`, got {drift!r}.")
    if init is not None and not isinstance(init, Drift):
        raise ValueError(f"`init` must be the `Drift` of an earlier step, got {init!r}.")
    samples = batch(jax.vmap(generator)(batch(latents, "latents")), "generator(latent)")
    samples, data = two_batches(samples, data, ("generator(latent)", "data"))
    here, valid = lax.stop_gradient(samples), all_finite(samples, data)
    samples = cleaned(samples, valid)

    def loss(field: Float[Array, "n ..."]) -> Float[Array, ""]:
        residual = samples - lax.stop_gradient(samples + cleaned(field, valid))
        return nan_unless(valid, jnp.sum(jnp.square(residual)) / len(samples))

    if not has_aux and init is None:
        return loss(drift(here, data))  # nothing but the field is computed
    found = drift.evaluate(here, data, init)
    return (loss(found.field), found) if has_aux else loss(found.field)
