"""The continuous W1 benchmark: our critics beside the published ones, and beside the truth.

    python benchmarks/w1_benchmark.py --dims 2 16 64 --funnel-counts 4 64 --critics gp recipe

The pairs are those of Korotin, Kolesov and Burnaev (NeurIPS 2022, arXiv:2206.07767), drawn afresh
from the published law, or read from a file of the published parameters (`--funnels`). Only with the
latter are the published numbers those of the very same pairs. All pairs of one dimension train side
by side. The records say exactly what was run; a record of the same pair and critic is replaced.
"""

import datetime
import json
import math
import pathlib
import sys
from dataclasses import dataclass
from typing import Any

import tyro
from accelerator import describe_device, versions
from w1 import funnels as w1
from w1.critics import Setting, SETTINGS
from w1.report import progress_line, table
from w1.training import evaluate, SAMPLES, train


@dataclass(frozen=True)
class Options:
    """Which pairs, which critics, and how long."""

    dims: tuple[int, ...] = (2, 16, 64)
    """Dimensions of the pairs."""
    funnel_counts: tuple[int, ...] = (4, 64)
    """Numbers of funnels: the more, the harder."""
    critics: tuple[str, ...] = ("gp", "lp", "orthogonal", "recipe")
    """Any of gp, lp, orthogonal, clip, spectral (published settings) and recipe."""
    updates: int | None = None
    """Critic updates; by default those of each critic's setting."""
    budget_fraction: float = 1.0
    """Of each setting's own number of updates, where `updates` is not given."""
    batch: int | None = None
    """Samples of each measure in an update; by default those of each critic's setting."""
    funnels: pathlib.Path | None = None
    """An .npz file of published pairs; by default pairs are drawn."""
    seed: int = 0
    """Of the pairs drawn, the weights, and the samples."""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/w1_<device>.json. The table lies beside it."""
    quick: bool = False
    """Dimension 2, few updates: does it run?"""


QUICK = {"dims": (2,), "funnel_counts": (4,), "updates": 100, "batch": 128}


def limited(setting: Setting, options: Options) -> Setting:
    """The setting with the budget that was asked for."""
    updates = options.updates or max(1, round(options.budget_fraction * setting.updates))
    return setting._replace(updates=updates, batch=options.batch or setting.batch)


def checked(options: Options) -> Options:
    """The options, if they make sense.

    **Raises:** `ValueError`, naming the option.
    """
    unknown = sorted(set(options.critics) - set(SETTINGS))
    if unknown or not options.critics:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"`critics` must be of {', '.join(SETTINGS)}, got {got}.")
    for name in ("dims", "funnel_counts"):
        numbers = getattr(options, name)
        if not numbers or min(numbers) < 1:
            raise ValueError(f"`{name}` must be positive numbers, got {numbers}.")
    for name in ("updates", "batch"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")
    if not 0 < options.budget_fraction < math.inf:
        raise ValueError(
            f"`budget_fraction` must be positive and finite, got {options.budget_fraction}."
        )
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"`seed` must be from 0 to 2^32 - 1, got {options.seed}.")
    if options.funnels is not None and not options.funnels.is_file():
        raise ValueError(f"`funnels` must be a file, got {options.funnels}.")
    return options


def pairs_of(dim: int, options: Options) -> list[w1.Funnels]:
    return [
        w1.draw(dim, count, options.seed)
        if options.funnels is None
        else w1.load(options.funnels, dim, count)
        for count in options.funnel_counts
    ]


def run(dim: int, critic: str, options: Options) -> list[dict[str, Any]]:
    """The records of one critic on all pairs of one dimension."""
    setting = limited(SETTINGS[critic], options)
    stacked = w1.stacked(pairs_of(dim, options))
    trained = train(setting, stacked, options.seed, label=f"D={dim} {critic}")
    scores = evaluate(trained, stacked, options.seed)
    common = {
        "critic": critic,
        "setting": setting.text,
        "pairs": "drawn" if options.funnels is None else options.funnels.name,
        "updates": setting.updates,
        "full_updates": SETTINGS[critic].updates,
        "batch": setting.batch,
        "scored_on": SAMPLES,
        "seed": options.seed,
        "side_by_side": list(options.funnel_counts),
        "train_s": trained.run_s,
        "compile_s": trained.compile_s,
        "device": describe_device()["kind"],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    return [
        {"dim": dim, "funnels": count, **score._asdict(), **common}
        for count, score in zip(options.funnel_counts, scores, strict=True)
    ]


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records, sorted; of those of one pair and critic the new one."""

    def key(record: dict[str, Any]) -> tuple[Any, ...]:
        return record["dim"], record["funnels"], record["critic"], record["pairs"]

    records = {key(record): record for record in [*old, *new]}
    return [records[k] for k in sorted(records)]


def earlier(output: pathlib.Path) -> list[dict[str, Any]]:
    """The records that the output has, before hours are spent on more of them.

    **Raises:** `ValueError`, naming the option, if it has something else or cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return json.loads(output.read_text())["records"] if output.exists() else []
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"`output` must be a file of records, or new, got {output}.") from error


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    try:
        if options.quick:
            options = Options(**{**vars(options), **QUICK})
        options = checked(options)
        suffix = "-quick" if options.quick else ""
        default = f"w1_{describe_device()['slug']}{suffix}.json"
        output = options.output or pathlib.Path(__file__).parent / "results" / default
        for dim in options.dims:
            pairs_of(dim, options)  # a file without one of them is refused before any training
        records = earlier(output)
        for dim in options.dims:
            for critic in options.critics:
                new = run(dim, critic, options)
                for record in new:
                    print(progress_line(record), flush=True)
                records = merged(records, new)
                output.write_text(json.dumps({"records": records}, indent=1) + "\n")
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = table(records)
    output.with_suffix(".md").write_text(text)
    print(f"\n{text}\nwrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
