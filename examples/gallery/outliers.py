"""Outliers: a balanced plan must move them, an unbalanced one lets them be.

python examples/gallery/outliers.py    # draws outliers.png
"""

import jax.random as jr
from jax import numpy as jnp
from matplotlib.figure import Figure

import otjax
from otjax import plot


x = 0.3 * jr.normal(jr.key(0), (40, 2))
y = jnp.concatenate(
    [0.3 * jr.normal(jr.key(1), (36, 2)) + jnp.array([1.0, 0.5]), jnp.array([[4.0, -2.0]] * 4)]
)
geometry = otjax.PointCloud(x, y)
axes = Figure(figsize=(11, 3.4), layout="tight").subplots(1, 3)
for ax, name, marginals in (
    (axes[0], "balanced", otjax.Balanced()),
    (axes[1], "unbalanced, rho = 1", otjax.Unbalanced(1.0)),
):
    problem = otjax.EntropicProblem(geometry, epsilon=0.05, marginals=marginals)
    solution = otjax.solve(problem, tolerance=1e-3)
    plot.plan_lines(solution, x, y, ax=ax).set_title(name)
    moved = solution.marginals[1]
    print(f"{name}: {jnp.sum(moved[36:]) / jnp.sum(moved):.1%} of the mass goes to the outliers")
plot.marginals(solution.T, ax=axes[2]).set_title("masses of the targets, rho = 1")
axes[0].figure.savefig("outliers.png", dpi=80)
