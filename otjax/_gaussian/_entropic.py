r"""Entropic transport between Gaussians in closed form, balanced and not.

In the letters of Janati et al. 2020 (arXiv:2006.02572), with $\epsilon = 2 \sigma^2$. The optimal
plan is a Gaussian, and all of it follows from the $E$ of one quadratic equation, `riccati`.
"""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_scalar, points_like
from .._marginals import AbstractMarginal, Balanced, Unbalanced
from .._results import raise_unless_successful, RESULTS
from ._arguments import two_gaussians, valid_gaussian
from ._bures import aligned_roots
from ._spectral import inner, log_det_1p, product, riccati


class GaussianSolution(eqx.Module):
    r"""The entropic plan between Gaussians: `mass` times a Gaussian on pairs (x, y).

    - `value`: the optimum of the regularised objective.
    - `mass`: the total mass of the plan.
    - `means`: the means of its two marginals, shapes (d,).
    - `covs`: their covariances, shapes (d, d).
    - `cross_cov`: the covariance of x with y, shape (d, d).
    - `matrix`: given x, the mean of y is `means[1] + matrix (x - means[0])`.
    - `result`: a member of `RESULTS`. Numbers are finite whatever it is.
    """

    value: Float[Array, ""]
    mass: Float[Array, ""]
    means: tuple[Float[Array, " d"], Float[Array, " d"]]
    covs: tuple[Float[Array, "d d"], Float[Array, "d d"]]
    cross_cov: Float[Array, "d d"]
    matrix: Float[Array, "d d"]
    result: RESULTS

    @property
    def value_linear(self) -> Float[Array, ""]:
        r"""The transport cost of the plan, $\mathbb{E}_P |x - y|^2$ times its mass."""
        shift = jnp.sum(jnp.square(self.means[0] - self.means[1]))
        return self.mass * (shift + jnp.trace(self.covs[0] + self.covs[1] - 2 * self.cross_cov))

    def transport(self, x: ArrayLike) -> Float[Array, "k d"]:
        """The entropic map: where the plan sends a point on average.

        **Arguments:**

        - `x`: points, shape (k, d).

        **Returns:** their images, shape (k, d).
        """
        points = points_like(x, "x", len(self.matrix), self.matrix.dtype)
        return self.means[1][None, :] + product(points - self.means[0][None, :], self.matrix.T)


def solve_gaussian(
    mean_a: ArrayLike,
    cov_a: ArrayLike,
    mean_b: ArrayLike,
    cov_b: ArrayLike,
    *,
    epsilon: ArrayLike,
    masses: tuple[ArrayLike, ArrayLike] = (1.0, 1.0),
    marginals: AbstractMarginal = Balanced(),
    throw: bool = True,
) -> GaussianSolution:
    r"""Entropic transport between Gaussian measures in closed form: the objective of
    `EntropicProblem` for the cost $|x - y|^2$,

    $$\min_P \int |x - y|^2 dP + \epsilon \mathrm{KL}(P | \alpha \otimes \beta) + D(P_1 | \alpha)
      + D(P_2 | \beta)$$

    (Janati et al. 2020, arXiv:2006.02572). Differentiable to every order in all numbers, by
    singular covariances too. As `epsilon` goes to 0, the value is `squared_bures_wasserstein`.

    **Arguments:**

    - `mean_a`, `mean_b`: the means, shape (d,).
    - `cov_a`, `cov_b`: the covariances, shape (d, d), symmetric and positive semi-definite.
    - `epsilon`: the regularisation, in the unit of the cost.
    - `masses`: the total masses of the two measures, numbers; equal ones if balanced.
    - `marginals`: `Balanced()`, or `Unbalanced(rho)` for both.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `GaussianSolution`.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if numbers are invalid and `throw` is true.
    """
    arrays = two_gaussians(mean_a, cov_a, mean_b, cov_b)
    dtype = arrays[0].dtype
    if not isinstance(masses, tuple) or len(masses) != 2:
        raise ValueError(f"`masses` must be a pair of numbers, got {masses!r}.")
    if not isinstance(marginals, (Balanced, Unbalanced)):
        raise ValueError(
            "`marginals` must be `Balanced()` or `Unbalanced(rho)` for both sides, got "
            f"{marginals!r}."
        )
    mass_a, mass_b = (float_scalar(m, f"masses[{k}]", dtype) for k, m in enumerate(masses))
    epsilon = float_scalar(epsilon, "epsilon", dtype)
    rho = marginals.rho.astype(dtype) if isinstance(marginals, Unbalanced) else None
    solution = _solve_gaussian(*arrays, mass_a, mass_b, epsilon, rho)
    if throw:
        solution = raise_unless_successful(solution, solution.result)
    return solution


@eqx.filter_jit
def _solve_gaussian(mean_a, cov_a, mean_b, cov_b, mass_a, mass_b, epsilon, rho):
    mean_a, cov_a, finite_a, valid_a = valid_gaussian(mean_a, cov_a)
    mean_b, cov_b, finite_b, valid_b = valid_gaussian(mean_b, cov_b)
    mass_a, mass_a_valid = _positive(mass_a)
    mass_b, mass_b_valid = _positive(mass_b)
    epsilon, epsilon_valid = _positive(epsilon)
    totals = rho_valid = jnp.array(True)
    gaussians = mean_a, cov_a, mean_b, cov_b
    if rho is None:
        rounding = 1e-4 if mass_a.dtype == jnp.float32 else 1e-6
        totals = jnp.abs(mass_b / mass_a - 1) <= rounding
        parts = _balanced(*gaussians, mass_a, mass_b, epsilon)
    else:
        rho, rho_valid = _positive(rho)
        parts = _unbalanced(*gaussians, mass_a, mass_b, epsilon, rho)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts]))
    result = RESULTS.successful
    for valid, otherwise in (
        (finite & finite_a & finite_b, RESULTS.nonfinite_input),
        (totals, RESULTS.unequal_mass),
        (rho_valid, RESULTS.invalid_rho),
        (epsilon_valid, RESULTS.invalid_epsilon),
        (mass_a_valid & mass_b_valid, RESULTS.invalid_mass),
        (valid_a & valid_b, RESULTS.invalid_covariance),
    ):
        result = RESULTS.where(valid, result, otherwise)
    value, mass, u, v, cov_u, cov_v, cross, matrix = (jnp.where(finite, p, 0) for p in parts)
    return GaussianSolution(value, mass, (u, v), (cov_u, cov_v), cross, matrix, result)


def _positive(number: Float[Array, ""]) -> tuple[Float[Array, ""], Array]:
    valid = (number > 0) & (number < jnp.sqrt(jnp.finfo(number.dtype).max))
    return jnp.where(valid, number, 1), valid


def _balanced(mean_a, cov_a, mean_b, cov_b, mass_a, mass_b, epsilon):
    matrix = riccati(cov_a, cov_b, epsilon / 2)
    cost = jnp.sum(jnp.square(mean_a - mean_b)) + _entropic_bures(cov_a, cov_b, epsilon)
    # A plan of mass m has KL(P | a x b) = m KL(P / m | ...) - m log(m) - m + m^2. The two masses
    # agree, so that the value is half of each one's.
    value = jnp.zeros_like(cost)
    for mass in (mass_a, mass_b):
        value += (mass * cost + epsilon * mass * (mass - 1 - jnp.log(mass))) / 2
    cross = product(cov_a, matrix)
    return value, mass_a, mean_a, mean_b, cov_a, cov_b, cross, matrix


@eqx.filter_custom_jvp
def _entropic_bures(a, b, epsilon):
    """The entropic cost between centred Gaussians of mass 1."""
    squared, r = aligned_roots(a, b)
    s = epsilon / 2
    d = jnp.sqrt(4 * jnp.square(r) + jnp.square(s))
    # What it exceeds the squared distance by, without differences of large numbers.
    excess = s - jnp.square(s) / (d + 2 * r) + s * jnp.log((d + s) / (2 * s))
    return squared + jnp.sum(excess)


@_entropic_bures.def_jvp
def _entropic_bures_jvp(primals, tangents):
    """By the covariances the potentials $x^T (1 - E) x$, by `epsilon` the divergence."""
    (a, b, epsilon), (t_a, t_b, t_epsilon) = primals, tangents
    one = jnp.eye(a.shape[0], dtype=a.dtype)
    derivative = jnp.zeros_like(epsilon)
    if t_a is not None:
        derivative += inner(one - riccati(a, b, epsilon / 2), t_a)
    if t_b is not None:
        derivative += inner(one - riccati(b, a, epsilon / 2), t_b)
    if t_epsilon is not None:
        divergence = log_det_1p(a, 2 / epsilon * riccati(a, b, epsilon / 2)) / 2
        derivative += divergence * t_epsilon
    return _entropic_bures(a, b, epsilon), derivative


def _unbalanced(mean_a, cov_a, mean_b, cov_b, mass_a, mass_b, epsilon, rho):
    r"""For a plan $m \pi$ of mass m, the objective is $m J(\pi)$ and terms in m alone. J is least
    at a Gaussian whose mean and covariance separate; then m follows, and the value from m.

    The precision of $\pi$ is $[[P, -k], [-k, Q]]$ with $k = 2 / \epsilon$, where
    $P = A^{-1} + 1 / \lambda + \tau k^2 Q^{-1}$, likewise Q. With
    $\tilde A = A (1 + A / \lambda)^{-1}$ that is $P^{-1} = (1 + \tilde A E / s)^{-1} \tilde A$ for
    $E \tilde A E + s E = \tilde B$.
    """
    one = jnp.eye(mean_a.shape[0], dtype=mean_a.dtype)
    lam, tau, k = (epsilon + rho) / 2, rho / (rho + epsilon), 2 / epsilon
    s = epsilon / (2 * jnp.sqrt(tau))

    def damped(cov):
        matrix = jnp.linalg.solve(one + cov / lam, cov)
        return (matrix + matrix.T) / 2

    a, b = damped(cov_a), damped(cov_b)
    e = riccati(a, b, s)
    inverse_p = jnp.linalg.solve(one + product(a, e) / s, a)
    inverse_q = product(b, jnp.linalg.inv(one + product(a, e) / s))
    # The means are held together by a spring, and to the given means by one each.
    pull = jnp.linalg.solve(one + (cov_a + cov_b) / lam, mean_a - mean_b)
    u = mean_a - jnp.matmul(cov_a, pull, precision=lax.Precision.HIGHEST) / lam
    v = mean_b + jnp.matmul(cov_b, pull, precision=lax.Precision.HIGHEST) / lam
    least = jnp.sum((mean_a - mean_b) * pull) + (
        lam * (log_det_1p(cov_a, one / lam) + log_det_1p(cov_b, one / lam))
        + epsilon / 2 * log_det_1p(a, e / s)
        + (epsilon / 2 + rho) * log_det_1p(a, -e / (lam * jnp.sqrt(tau)))
    )
    product_of_masses = mass_a * mass_b
    log_mass = ((epsilon + rho) * jnp.log(product_of_masses) - least) / (epsilon + 2 * rho)
    mass = jnp.exp(log_mass)
    value = rho * (mass_a + mass_b) + epsilon * product_of_masses - (epsilon + 2 * rho) * mass
    cov_u = jnp.linalg.solve(one - k**2 * product(inverse_p, inverse_q), inverse_p)
    cov_v = jnp.linalg.solve(one - k**2 * product(inverse_q, inverse_p), inverse_q)
    cross, matrix = k * product(inverse_p, cov_v), k * inverse_q
    return value, mass, u, v, cov_u, cov_v, cross, matrix
