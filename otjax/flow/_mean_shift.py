"""The drift of mean shifts."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import constant
from .._ground_cost import Euclidean, GroundCost, pairwise
from .._results import RESULTS
from .._sinkhorn_divergence import sinkhorn_divergence
from ._batches import all_finite, two_batches, vectors
from ._drift import AbstractDrift, Drift, positive_numbers, root_mean_square


class MeanShift(AbstractDrift):
    r"""The drift of Deng et al. (2026, arXiv:2602.04770): attracted by data, repelled by the other
    samples, with weights of a kernel $e^{-c(x, y) / \tau}$.

    With $A$ the geometric mean of the kernel normalised over its rows and over its columns, where
    the columns are the samples (but the row's own) and the data,

    $$V(x_i) = \sum_{jl} A^{data}_{ij} A^{samples}_{il} (y_j - x_l).$$

    At each temperature it is divided by its own size and multiplied by the mean distance; then the
    temperatures are added.
    """

    temperatures: Float[Array, " k"]
    cost: GroundCost
    normalised: bool = eqx.field(static=True)

    def __init__(
        self,
        temperatures: ArrayLike | tuple[float, ...] = (0.02, 0.05, 0.2),
        *,
        cost: GroundCost = Euclidean(),
        normalised: bool = True,
    ):
        r"""**Arguments:**

        - `temperatures`: the $\tau$, as fractions of the mean cost between samples and data; one
            number or several, shape (k,).
        - `cost`: of the kernel. `Euclidean()` makes it Laplace's, `SqEuclidean()` Gauss's.
        - `normalised`: whether each temperature is brought to one size. Otherwise the field
            vanishes as the samples approach the data, and cold temperatures with it.
        """
        if not callable(cost):
            raise ValueError(f"`cost` must be a ground cost such as `Euclidean()`, got {cost!r}.")
        self.temperatures = positive_numbers(temperatures, "temperatures")
        self.cost, self.normalised = cost, normalised

    @eqx.filter_jit
    def __call__(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "n ..."]:
        samples, data = constant(two_batches(x, y, ("x", "y")))
        return self._fields(samples, data)[0]

    @eqx.filter_jit
    def evaluate(self, x: ArrayLike, y: ArrayLike, init: Drift | None = None) -> Drift:
        del init
        samples, data = constant(two_batches(x, y, ("x", "y")))
        field, raw = self._fields(samples, data)
        divergence = sinkhorn_divergence(vectors(samples), vectors(data))
        valid = all_finite(samples, data)
        return Drift(
            field=field,
            size=root_mean_square(raw),
            w2=jnp.sqrt(divergence),
            solutions=None,
            result=RESULTS.where(valid, RESULTS.successful, RESULTS.nonfinite_input),
        )

    def _fields(
        self, samples: Float[Array, "n ..."], data: Float[Array, "m ..."]
    ) -> tuple[Float[Array, "n ..."], Float[Array, "n ..."]]:
        """The field, and what it would be if it were not normalised."""
        if len(samples) < 2:
            raise ValueError("`x` must hold two samples at least, which repel each other, got 1.")
        x, y = vectors(samples), vectors(data)
        to_samples, to_data = pairwise(self.cost, x, x), pairwise(self.cost, x, y)
        # A sample does not repel itself.
        to_samples = jnp.where(jnp.eye(len(x), dtype=bool), jnp.inf, to_samples)
        costs = jnp.concatenate([to_samples, to_data], axis=1)
        taus = constant(self.temperatures).astype(x.dtype) * jnp.mean(to_data)
        fields = jax.vmap(lambda tau: _shift(costs / tau, x, y))(taus)
        raw = jnp.sum(fields, axis=0).reshape(samples.shape)
        if not self.normalised:
            return raw, raw
        sizes = jax.vmap(root_mean_square)(fields)
        length = jnp.mean(pairwise(Euclidean(), x, y))
        scales = jnp.where(sizes > 0, length / jnp.where(sizes > 0, sizes, 1), 0)
        return jnp.sum(fields * scales[:, None, None], axis=0).reshape(samples.shape), raw


def _shift(
    exponents: Float[Array, "n n_plus_m"], x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n d"]:
    rows, columns = (jax.nn.log_softmax(-exponents, axis=axis) for axis in (1, 0))
    weights = jnp.exp(0.5 * (rows + columns))
    of_samples, of_data = weights[:, : len(x)], weights[:, len(x) :]
    # The coefficients of a row sum to zero, so that any point can be the origin.
    origin = jnp.mean(y, axis=0, keepdims=True)
    towards = jnp.sum(of_samples, axis=1, keepdims=True) * _product(of_data, y - origin)
    return towards - jnp.sum(of_data, axis=1, keepdims=True) * _product(of_samples, x - origin)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
