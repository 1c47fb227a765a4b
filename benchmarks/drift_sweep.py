"""One-step generators of digits along drifts of one temperature each, from cold to warm.

    .venv/bin/python benchmarks/drift_sweep.py                # a quarter of an hour on two cores
    .venv/bin/python benchmarks/drift_sweep.py --steps 20     # does it run?

Mean shifts, Sinkhorn's drifts and W-Flow's, each trained as `examples/flow_digits.py` does, with
the same network, steps and seed, by one temperature at a time: of a mean shift a share of the mean
distance, of the others a share of the variance. Of each the table of that example: the squared W2
distance to held-out images, the Fréchet distance, precision, recall, and how many classes there
are. Results go to one JSON file, after each run.
"""

import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import tyro
from accelerator import describe_device, versions


HERE = pathlib.Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "flow_digits.py"


@dataclass(frozen=True)
class Options:
    """What is trained."""

    steps: int = 3000
    """Of each generator."""
    seeds: tuple[int, ...] = (0,)
    temperatures: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Of the mean shifts."""
    epsilons: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    """Of the others."""
    methods: tuple[str, ...] = ("mean-shift", "sinkhorn-drift", "w-flow")
    output: pathlib.Path = HERE / "results" / "drift_sweep.json"
    """The JSON file."""


def trained(method: str, number: float, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """The table of one run of the example."""
    option = "--temperature" if method == "mean-shift" else "--epsilon"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(EXAMPLE), "--method", method, option, str(number)]
        command += ["--steps", str(steps), "--seed", str(seed), "--output", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads((pathlib.Path(folder) / "table.json").read_text())["table"]


def main(options: Options) -> None:
    report: dict[str, Any] = {
        "device": describe_device()["kind"],
        "versions": versions(),
        "date": str(datetime.date.today()),
        "steps": options.steps,
        "records": [],
    }
    for seed in options.seeds:
        for method in options.methods:
            numbers = options.temperatures if method == "mean-shift" else options.epsilons
            for number in numbers:
                table = trained(method, number, seed, options.steps)
                report["floor"] = table.pop("training set (floor)")
                (row,) = table.values()
                record = {"method": method, "temperature": number, "seed": seed, **row}
                print(json.dumps(record), flush=True)
                report["records"].append(record)
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
