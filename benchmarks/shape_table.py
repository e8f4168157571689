"""What benchmarks/shape.py measured, into the table of docs/data/bench-shape.json; then `python docs/tables.py`.

    python benchmarks/shape_table.py shape.json --date 2026-11-27 --commit abc1234

A row of the same job on the same machine is written anew. Of a stage that --limit ended it is told how far it was, by
the log beside shape.json.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parent.parent / "docs" / "data" / "bench-shape.json"
_JOBS = {
    "profile": "profile, the whole model",
    "prune": "prune --method {method}, keep {keep_n}",
    "integrity": "integrity of it, against the base",
    "stream": "profile --stream{card}",
}
_SHARED = "profile, layer by layer, a share of the blocks a GPU"
"""What needs several cards does not fit into one."""


def rows_of(measured: dict[str, Any], *, logs: Path, date: str, commit: str) -> list[dict[str, Any]]:
    """One for every stage that was begun, but for one that did not say how far it was."""
    given, machine = measured["arguments"], measured["machine"]
    streamed = len(machine["gpus"]) and float(given["card_gb"])
    card = f" in {float(given['card_gb']):g} GB" if streamed else ""
    part = "" if given["layers"] == "None" else f"{given['layers']} layers of the "
    gpus = [gpu.partition(",")[0] for gpu in machine["gpus"]]
    hardware = f"{len(gpus)} x {gpus[0]}, {machine['cores']} cores" if gpus else f"{machine['cores']} CPU cores"
    jobs = _JOBS | ({"profile": _SHARED} if int(given["gpus"]) > 1 else {})
    rows = []
    for stage, job in jobs.items():
        found = measured["stages"].get(stage, {})
        so_far = "" if not found or found["finished"] else _so_far(logs / f"{stage}.log")
        if not found or not (found["finished"] or so_far):
            continue
        said = [left for left in found["time_left_said"].values() if left]
        rows.append(
            {
                "what": f"{part}{given['shape']} shape, {measured['rows']['tokens']:,} tokens: "
                + job.format(**given, card=card)
                + (", the same trace bit for bit" if stage == "stream" else "")
                + so_far,
                "seconds": found["seconds"],
                "calls": found["calls"],
                # What makes the card smaller is in use on it, too.
                "gpu": None if stage == "stream" and streamed else found["gpu_peak_GiB"] or None,
                "torch": found["torch_peak_GiB"].get("allocated"),
                "host": found["host_peak_GB"],
                "left": f"{min(s['least'] for s in said)} to {max(s['most'] for s in said)}" if said else None,
                "hardware": hardware,
                "date": date,
                "commit": commit,
            }
        )
    return rows


def _so_far(log: Path) -> str:
    shares = re.findall(r"\((\d+)%\)", log.read_text(encoding="utf-8"))
    return f", until {shares[-1]} % of it were done" if shares else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--date", required=True)
    parser.add_argument("--commit", required=True, help="that was measured")
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text(encoding="utf-8"))
    new = rows_of(measured, logs=given.measured.parent, date=given.date, commit=given.commit)
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    made = {(row["what"], row["hardware"]) for row in new}
    table["rows"] = [row for row in table["rows"] if (row["what"], row["hardware"]) not in made] + new
    head = {name: value for name, value in table.items() if name != "rows"}
    lines = ",\n".join(f"    {json.dumps(row)}" for row in table["rows"])
    text = json.dumps(head, indent=2).removesuffix("\n}")
    TABLE.write_text(f'{text},\n  "rows": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
