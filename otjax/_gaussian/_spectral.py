r"""Symmetric matrices by their eigenvectors, and the two matrix equations of Gaussian transport.

What is differentiated never sees the eigenvectors, whose derivatives do not exist where
eigenvalues coincide: the solution $E$ of the quadratic equation has its derivative from the linear
one, and the solution of the linear one from itself. Only symmetric eigenvalue and singular value
decompositions are taken, which every accelerator has.
"""

import math

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def product(*matrices: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """The product of matrices, in full precision on accelerators too."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = jnp.matmul(result, matrix, precision=lax.Precision.HIGHEST)
    return result


def inner(left: Float[Array, "d d"], right: Float[Array, "d d"]) -> Float[Array, ""]:
    """The inner product of two matrices."""
    return jnp.sum(left * right)


def square_root(
    matrix: Float[Array, "d d"], cleaned: Bool[Array, ""] | bool = False
) -> Float[Array, "d d"]:
    """The square root of a positive semi-definite matrix; if `cleaned`, without the eigenvalues
    that are nothing but rounding. Not to be differentiated."""
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    values = jnp.where(values > jnp.where(cleaned, _noise(values), 0), values, 0)
    return product(vectors * jnp.sqrt(values)[None, :], vectors.T)


def _noise(values: Float[Array, " d"]) -> Float[Array, ""]:
    """The size up to which eigenvalues or singular values are nothing but rounding."""
    eps = jnp.finfo(values.dtype).eps
    return 4 * math.sqrt(values.shape[0]) * eps * jnp.max(jnp.abs(values))


@jax.custom_jvp
def riccati(
    a: Float[Array, "d d"], b: Float[Array, "d d"], s: Float[Array, ""]
) -> Float[Array, "d d"]:
    r"""The positive semi-definite solution $E$ of $E a E + s E = b$, for $s \ge 0$.

    At $s = 0$ it is the linear map that transports N(0, a) to N(0, b), and for entropic transport
    with $s = \epsilon / 2$ it is the map of conditional means. In the letters of Janati et al. 2020
    (arXiv:2006.02572), proposition 2: $b^{1/2} ((b^{1/2} a b^{1/2} + s^2 / 4)^{1/2} + s / 2)^{-1}
    b^{1/2}$; a pseudo-inverse, where at $s = 0$ one is needed.
    """
    root_a, root_b = (square_root(matrix, cleaned=s == 0) for matrix in (a, b))
    _, r, right = jnp.linalg.svd(product(root_a, root_b))
    x = jnp.sqrt(jnp.square(r) + jnp.square(s) / 4) + s / 2
    positive = (r > _noise(r)) | (s > 0)
    half = product(root_b, right.T)
    return product(half * jnp.where(positive, 1 / jnp.where(positive, x, 1), 0)[None, :], half.T)


@riccati.defjvp
def _riccati_jvp(primals, tangents):
    (a, b, s), (t_a, t_b, t_s) = primals, tangents
    e = riccati(a, b, s)
    return e, lyapunov(a, e, s, t_b - product(e, t_a, e) - t_s * e)


def lyapunov(
    a: Float[Array, "d d"],
    e: Float[Array, "d d"],
    s: Float[Array, ""],
    right: Float[Array, "d d"],
) -> Float[Array, "d d"]:
    r"""The symmetric solution $X$ of $K^T X + X K = right$ with $K = a e + s / 2$, for
    positive semi-definite `a` and `e` and a symmetric right hand side."""

    def matrix(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        half = product(x, product(a, e)) + s / 2 * x
        return half + half.T

    # A linear solve, so that JAX knows its derivatives and its transpose: K with a and e exchanged.
    return lax.custom_linear_solve(
        matrix,
        right,
        lambda _, right: _solve_lyapunov(a, e, s, right),
        lambda _, right: _solve_lyapunov(e, a, s, right),
    )


def _solve_lyapunov(
    a: Float[Array, "d d"],
    e: Float[Array, "d d"],
    s: Float[Array, ""],
    right: Float[Array, "d d"],
) -> Float[Array, "d d"]:
    r"""In the basis of $a^{1/2} e a^{1/2} = Q \Lambda Q^T$: $G = a^{1/2} Q$ are right eigenvectors
    of $a e$ and $H = e G \Lambda^{-1}$ left ones, $H^T G = 1$. What neither reaches is the kernel
    of $a e$, which at $s = 0$ has no part in the solution."""
    right, root_a = _symmetric(right), square_root(a)
    values, q = jnp.linalg.eigh(_symmetric(product(root_a, e, root_a)))
    positive = values > _noise(values)
    values = jnp.where(positive, values, 1)
    g = jnp.where(positive[None, :], product(root_a, q), 0)
    h = product(e, g) / values[None, :]
    kernel = jnp.eye(a.shape[0], dtype=a.dtype) - product(g, h.T)
    onto = product(g.T, right)
    inside = product(onto, g) / (values[:, None] + values[None, :] + s)
    mixed = product(h, product(onto, kernel) / (values[:, None] + s))
    outside = product(kernel.T, right, kernel) * jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)
    return product(h, inside, h.T) + mixed + mixed.T + outside


def _symmetric(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return (matrix + matrix.T) / 2


@jax.custom_jvp
def log_det_1p(a: Float[Array, "d d"], e: Float[Array, "d d"]) -> Float[Array, ""]:
    r"""$\log \det (1 + a e)$ for a positive semi-definite `a` and a symmetric `e`, also where
    $a e$ is small."""
    root_a = square_root(a)
    return jnp.sum(jnp.log1p(jnp.linalg.eigvalsh(_symmetric(product(root_a, e, root_a)))))


@log_det_1p.defjvp
def _log_det_1p_jvp(primals, tangents):
    (a, e), (t_a, t_e) = primals, tangents
    one = jnp.eye(a.shape[0], dtype=a.dtype)
    moved = product(t_a, e) + product(a, t_e)
    return log_det_1p(a, e), jnp.trace(jnp.linalg.solve(one + product(a, e), moved))
