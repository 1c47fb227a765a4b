"""The Schrödinger bridge between Gaussians, in closed form."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array, float_scalar


Vector = Float[Array, " d"]
Matrix = Float[Array, "d d"]


class GaussianBridge(eqx.Module):
    r"""The Schrödinger bridge from $N(m_a, \Sigma_a)$ to $N(m_b, \Sigma_b)$ for a Brownian motion
    of diffusion $\sigma$: the law of paths nearest to it with these ends (Janati et al. 2020,
    arXiv:2006.02572; Bunne et al. 2022, arXiv:2202.05722).

    Its ends are coupled by the entropic plan at $\epsilon = 2 \sigma^2$ for the cost
    $\|x - y\|^2$; at $\sigma = 0$ it is the geodesic of $W_2$. A reference for everything that
    learns one, and differentiable in all of its numbers.
    """

    mean_a: Vector
    cov_a: Matrix
    mean_b: Vector
    cov_b: Matrix
    sigma: Float[Array, ""]
    cross: Matrix

    def __init__(
        self,
        mean_a: ArrayLike,
        cov_a: ArrayLike,
        mean_b: ArrayLike,
        cov_b: ArrayLike,
        *,
        sigma: ArrayLike,
    ):
        """**Arguments:**

        - `mean_a`, `mean_b`: means, shape (d,).
        - `cov_a`, `cov_b`: covariances, shape (d, d), positive definite; others give NaN, where
            `sigma` is 0, or wherever an eigenvalue is negative.
        - `sigma`: the diffusion, in the unit of the samples per square root of time, not negative.

        **Raises:** `ValueError` for shapes and dtypes that do not fit.
        """
        means = [float_array(mean_a, "mean_a", "d"), float_array(mean_b, "mean_b", "d")]
        covs = [float_array(cov_a, "cov_a", "d d"), float_array(cov_b, "cov_b", "d d")]
        d, dtype = means[0].shape[0], means[0].dtype
        for array, name, shape in zip(
            (means[1], *covs), ("mean_b", "cov_a", "cov_b"), ((d,), (d, d), (d, d)), strict=True
        ):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"`{name}` must have shape {shape} and the dtype of `mean_a`, {dtype}, got "
                    f"shape {array.shape} and dtype {array.dtype}."
                )
        self.mean_a, self.mean_b = means
        self.cov_a, self.cov_b = (0.5 * (cov + cov.T) for cov in covs)
        self.sigma = float_scalar(sigma, "sigma", dtype)
        self.cross = _cross_covariance(self.cov_a, self.cov_b, self.sigma)

    @property
    def joint(self) -> tuple[Float[Array, " dd"], Float[Array, "dd dd"]]:
        """The mean and the covariance of start and end together, shapes (2 d,) and (2 d, 2 d)."""
        rows = [[self.cov_a, self.cross], [self.cross.T, self.cov_b]]
        return jnp.concatenate([self.mean_a, self.mean_b]), jnp.block(rows)

    def mean(self, t: ArrayLike) -> Vector:
        """The mean at a time from 0 to 1, shape (d,)."""
        return _mean(self, float_scalar(t, "t", self.mean_a.dtype))

    def covariance(self, t: ArrayLike) -> Matrix:
        """The covariance at a time from 0 to 1, shape (d, d)."""
        return _covariance(self, float_scalar(t, "t", self.mean_a.dtype))

    def velocity(self, t: ArrayLike, x: ArrayLike) -> Vector:
        """The velocity at time `t` and point `x`, shape (d,), of the flow that has the marginals of
        the bridge: what `velocity_loss` is least at, with `BrownianBridge(sigma)` and ends drawn
        from `joint`."""
        dtype = self.mean_a.dtype
        return _velocity(self, float_scalar(t, "t", dtype), float_array(x, "x", "d").astype(dtype))


@eqx.filter_jit
def _mean(bridge: GaussianBridge, t: Float[Array, ""]) -> Vector:
    return (1 - t) * bridge.mean_a + t * bridge.mean_b


@eqx.filter_jit
def _covariance(bridge: GaussianBridge, t: Float[Array, ""]) -> Matrix:
    cross, variance = bridge.cross, jnp.square(bridge.sigma)
    mixed = cross + cross.T + variance * jnp.eye(len(cross), dtype=t.dtype)
    return jnp.square(1 - t) * bridge.cov_a + jnp.square(t) * bridge.cov_b + t * (1 - t) * mixed


@eqx.filter_jit
def _velocity(bridge: GaussianBridge, t: Float[Array, ""], x: Vector) -> Vector:
    cross, variance = bridge.cross, jnp.square(bridge.sigma)
    # The covariance of (x_1 - x_0 + the noise's own velocity) with x_t.
    of_ends = (1 - t) * (cross.T - bridge.cov_a) + t * (bridge.cov_b - cross)
    of_noise = 0.5 * variance * (1 - 2 * t) * jnp.eye(len(cross), dtype=t.dtype)
    standard = jnp.linalg.solve(_covariance(bridge, t), x - _mean(bridge, t))
    return bridge.mean_b - bridge.mean_a + _product(of_ends + of_noise, standard)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


@eqx.filter_jit
def _cross_covariance(cov_a: Matrix, cov_b: Matrix, sigma: Float[Array, ""]) -> Matrix:
    r"""$C = \frac12 (A^{1/2} D A^{-1/2} - \sigma^2 I)$, $D = (4 A^{1/2} B A^{1/2} +
    \sigma^4 I)^{1/2}$, without the inverse of $A$: $D - \sigma^2 = 4 A^{1/2} B A^{1/2}
    (D + \sigma^2)^{-1}$."""
    root, identity = _square_root(cov_a), jnp.eye(len(cov_a), dtype=cov_a.dtype)
    middle = 4 * _product(_product(root, cov_b), root) + sigma**4 * identity
    shifted = _square_root(0.5 * (middle + middle.T)) + jnp.square(sigma) * identity
    return 2 * _product(root, jnp.linalg.solve(shifted, _product(root, cov_b)))


@jax.custom_jvp
def _square_root(matrix: Matrix) -> Matrix:
    """The square root of a positive semi-definite matrix."""
    values, axes = jnp.linalg.eigh(matrix)
    noise = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    roots = jnp.sqrt(jnp.where(jnp.abs(values) <= noise, 0, values))
    return _product(axes * roots[None, :], axes.T)


@_square_root.defjvp
def _square_root_jvp(primals, tangents):
    """Lyapunov's equation R dR + dR R = dA, which equal eigenvalues do no harm."""
    (matrix,), (tangent,) = primals, tangents
    root = _square_root(matrix)

    def solve(_, right: Matrix) -> Matrix:
        values, axes = jnp.linalg.eigh(root)
        sums = values[:, None] + values[None, :]
        turned = _product(_product(axes.T, right), axes)
        scaled = jnp.where(sums > 0, turned / jnp.where(sums > 0, sums, 1), 0)
        return _product(_product(axes, scaled), axes.T)

    lyapunov = lambda change: _product(root, change) + _product(change, root)
    return root, lax.custom_linear_solve(lyapunov, tangent, solve, symmetric=True)
