"""Cells that divide and differentiate: who comes from whom, and at what rate they grow.

    python examples/gallery/cell_trajectories.py    # draws cell_trajectories.png

A cell is destroyed when it is measured, so that each day is another sample. Unbalanced plans join
the days, as in Waddington-OT (Schiebinger et al. 2019, doi:10.1016/j.cell.2019.01.006).

The cells are synthetic, so that the truth is known: stem cells take one of two fates, and those of
the upper one divide. Real counts, reduced to a few principal components, go in place of `days`.
"""

import numpy as np
from matplotlib.figure import Figure

import otjax


rng = np.random.default_rng(0)
GROWTH = 1.6  # of the upper branch, in each interval


def day(time, number=150):
    """Cells of a day, shape (number, 2), and which of them are of the upper branch."""
    upper = np.arange(number) < round(number * GROWTH**time / (GROWTH**time + 1))
    height = np.where(upper, 1, -1) * time**1.5 / 3
    cells = np.stack([np.full(number, time), height], axis=1)
    return (cells + np.array([0.05, 0.15]) * rng.normal(size=cells.shape)).astype(np.float32), upper


days, uppers = zip(*(day(float(time)) for time in range(4)), strict=True)
plans, growth = [], []
for now, after in zip(days, days[1:], strict=False):
    # Sources grow as the data say, at a price; all cells that were found have come from somewhere.
    problem = otjax.EntropicProblem(
        otjax.PointCloud(now, after),
        epsilon=0.05,
        marginals=(otjax.Unbalanced(1.0), otjax.Balanced()),
    )
    solution = otjax.solve(problem, tolerance=1e-3)
    plans.append(np.asarray(solution.plan.as_matrix()))
    growth.append(np.asarray(solution.marginals[0]) * len(now))

# The fate of a first cell: the masses of the plans, followed to the last day.
fate = uppers[-1].astype(np.float32)
for plan in reversed(plans):
    fate = (plan @ fate) / plan.sum(axis=1)
fates_of_second = (plans[2] @ uppers[-1]) / plans[2].sum(axis=1)
right = np.mean((fates_of_second > 0.5) == uppers[2])
ratio = np.mean(growth[2][uppers[2]]) / np.mean(growth[2][~uppers[2]])
print(f"fates told from day 2: {right:.1%} right; ratio of growth {ratio:.2f}, true {GROWTH}")
print(f"share of upper fates of the stem cells: {fate.mean():.2f}")

figure = Figure(figsize=(10, 3.8), layout="tight")
left, right_ax = figure.subplots(1, 2, sharex=True, sharey=True)
for now, after, plan in zip(days, days[1:], plans, strict=False):
    for row in rng.choice(len(now), 50, replace=False):
        column = rng.choice(len(after), p=plan[row] / plan[row].sum())
        left.plot(*np.stack([now[row], after[column]]).T, color="0.6", linewidth=0.5)
for time, cells in enumerate(days):
    left.scatter(*cells.T, s=4, color=f"C{time}", label=f"day {time}")
left.legend(loc="upper left")
left.set(
    title="ancestors drawn from the plans", xlabel="first component", ylabel="second component"
)
rates = right_ax.scatter(
    *np.vstack(days[:-1]).T, s=6, c=np.hstack(growth), vmin=0.6, vmax=1.4, cmap="coolwarm"
)
figure.colorbar(rates, ax=right_ax, fraction=0.046, pad=0.04)
right_ax.set(title="growth that the plans found", xlabel="first component")
figure.savefig("cell_trajectories.png", dpi=80)
