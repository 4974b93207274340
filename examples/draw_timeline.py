"""Draw the scheduled round of a plan: what every resource does when, and how full the staging buffer is.

    python examples/draw_timeline.py out -o timeline.png

`out` is a folder that `moec compile` wrote; the picture is made from its plan.json and cost.json alone. The same round
is in `timeline.perfetto-trace`, to zoom into at https://ui.perfetto.dev.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from moe_compiler.report.timeline import COLOURS


def lanes(tasks: list[dict]) -> dict[str, list[dict]]:
    """Group tasks by the resources that they use; a task stands in the lane of each."""
    result: dict[str, list[dict]] = {}
    for task in tasks:
        for name in task["uses"]:
            result.setdefault(name, []).append(task)
    return dict(sorted(result.items(), key=lambda item: item[0].startswith("banks")))


def staging_levels(tasks: list[dict], staged: list[dict]) -> tuple[list[float], list[float]]:
    """Return (seconds, bytes): how much of the staging buffer is held, from load start to last use."""
    changes: list[tuple[float, int]] = []
    for buffer in staged:
        first, last = tasks[buffer["first"]], tasks[buffer["last"]]
        changes.append((first["start_seconds"], buffer["bytes"]))
        changes.append((last["start_seconds"] + last["seconds"], -buffer["bytes"]))
    level, times, levels = 0, [0.0], [0.0]
    for time, change in sorted(changes):
        level += change
        times.append(time)
        levels.append(level)
    return times, levels


def draw(folder: Path, picture: Path) -> None:
    """Draw one plan."""
    plan = json.loads((folder / "plan.json").read_text())
    cost = json.loads((folder / "cost.json").read_text())
    tasks, staged = plan["round"]["tasks"], plan["round"]["staged"]
    rows = lanes(tasks)
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(12, 4.2), sharex=True, height_ratios=[len(rows), 1.2], layout="constrained"
    )
    for row, members in enumerate(rows.values()):
        for kind, colour in COLOURS.items():
            bars = [(t["start_seconds"] * 1e3, t["seconds"] * 1e3) for t in members if t["kind"] == kind]
            top.broken_barh(bars, (row - 0.4, 0.8), facecolors=colour, linewidth=0)
    top.set_yticks(range(len(rows)), list(rows))
    top.invert_yaxis()
    kinds = [kind for kind in COLOURS if any(t["kind"] == kind for t in tasks)]
    patches = [Patch(color=COLOURS[kind], label=kind) for kind in kinds]
    figure.legend(handles=patches, ncols=len(kinds), loc="outside lower center", fontsize=8)
    draft = [t for t in tasks if t["step"] < plan["draft"]["length"] and t["kind"] != "load"]
    draft_end = max((t["start_seconds"] + t["seconds"] for t in draft), default=0)
    for axis in (top, bottom):
        axis.axvline(draft_end * 1e3, color="black", linewidth=0.8, linestyle="--")
    times, levels = staging_levels(tasks, staged)
    bottom.step([t * 1e3 for t in times], [level / 1e9 for level in levels], where="post", color="#c05621")
    bottom.axhline(plan["draft"]["staging_bytes"] / 1e9, color="grey", linewidth=0.8)
    bottom.set_ylabel("staging, GB")
    bottom.set_xlabel("milliseconds of the modelled machine; dashed: the last draft step ends")
    routing = f"{plan['profile']['name']} ({plan['profile']['kind']} routing)"
    top.set_title(
        f"{plan['model']} on {plan['target']}, batch {plan['batch']}, γ = {plan['draft']['length']}: "
        f"a training round of {cost['training_round']['seconds'] * 1e3:.1f} ms, at most "
        f"{cost['training_round']['gap']:.1%} from the best; limited by {cost['limited_by']}\n{routing}",
        fontsize=10,
    )
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that moec compile wrote")
    parser.add_argument("-o", dest="picture", type=Path, required=True, help="PNG or SVG file to write")
    arguments = parser.parse_args()
    draw(arguments.folder, arguments.picture)


if __name__ == "__main__":
    main()
