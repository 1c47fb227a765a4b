"""Records as lines and as a table, beside the published numbers."""

from typing import Any

from .published import best_cos, COUNTERPARTS, published


Record = dict[str, Any]


def deviation(estimate: float, truth: float) -> str:
    return f"{100 * (estimate / truth - 1):+.0f} %"


def progress_line(record: Record) -> str:
    return (
        f"D={record['dim']} N={record['funnels']} {record['critic']}: cos {record['cos']:.3f}, "
        f"L2 {record['l2']:.3f}, W1 {record['w1']:.3f} (true {record['truth']:.3f}), "
        f"{record['updates']} of {record['full_updates']} updates of {record['batch']}, "
        f"{record['train_s']:.0f} s for {len(record['side_by_side'])} pairs"
    )


def table(records: list[Record]) -> str:
    """A Markdown table: one row for each pair and critic.

    `published` is the solver that the critic repeats, or for the recipe the best of the ten neural
    solvers by cos. Where pairs were drawn, the published numbers are those of other pairs of the
    same law.
    """
    lines = [
        "| D | N | critic | updates | cos | published cos | L2 | published L2 | W1 | true W1 "
        "| error | published error |",
        "|--:|--:|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    known = published()
    for record in records:
        scores = known.get((record["dim"], record["funnels"]), {})
        cos, l2, error = "", "", ""
        if scores:
            solver = COUNTERPARTS.get(record["critic"]) or best_cos(scores)[0]
            theirs = scores[solver]
            cos, l2 = f"{theirs.cos:.2f} ({solver})", f"{theirs.l2:.2f}"
            error = deviation(theirs.w1, scores["truth"].w1)
        drawn = "" if record["pairs"] != "drawn" else " (own pair)"
        lines.append(
            f"| {record['dim']} | {record['funnels']} | {record['critic']}{drawn} "
            f"| {record['updates']:,} of {record['full_updates']:,} | {record['cos']:.3f} | {cos} "
            f"| {record['l2']:.3f} | {l2} | {record['w1']:.3f} | {record['truth']:.3f} "
            f"| {deviation(record['w1'], record['truth'])} | {error} |"
        )
    return "\n".join(lines) + "\n"
