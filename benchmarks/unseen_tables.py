"""The tables of `unseen.py`: from its files of results to docs/data/unseen.json and unseen-sweep.json.

    PYTHONPATH=. python benchmarks/unseen_tables.py lab-a=lab-3407.json lab-a=lab-4242.json third=third.json \\
      --out docs/data --commit abc1234

A file is given with the name of its model, as often as there are files of it; `make docs` then writes the tables. A
keep_n that a file does not hold whole is left out.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.weights_sweep import REFERENCE
from eaftgate.files import write_json
from eaftgate.strict_json import read_object

Row = dict[str, Any]
Files = Sequence[tuple[str, Mapping[str, Any]]]
"""Results with the names of their models."""

COLUMNS = {
    "model": "{model}",
    "keep": "{keep_n}",
    "dPPL": "{means[dppl]:+.2%}",
    "of the ranking": "{means[ranking_dppl]:+.2%}",
    "ratio": "{ratio:.2f}",
    "mean": "{means[ratio]:.2f}",
    "below, above 1": "{less}, {more}",
    "worst pack / UNION": "{worst:.1f}",
    "exact calls lost, net, %": "{net_percent:.1f}",
    "fewer, more than by the ranking": "{fewer_calls}, {more_calls}",
    "by the ranking": "{means[ranking_net]:.1%}",
    "by `reap-mass`": "{means[mass_net]:.1%}",
    "search, s": "{means[seconds]:.0f}",
    "v3, UNION": "{verdicts}",
    "every pack": "{packs}",
}
AVERAGED = ("dppl", "ranking_dppl", "ratio", "ranking_net", "mass_net", "seconds")
VERDICTS = ("pass", "inconclusive", "fail")
SHOWN = 8
"""Settings of a sweep, of those that lose least, besides eaft-reap."""


def cells(files: Files) -> list[tuple[str, int, int, Mapping[str, Any]]]:
    """(model, keep_n, seed, what was found), in the order of the table."""
    order = list(dict.fromkeys(model for model, _ in files))
    found = [
        (model, int(keep_n), int(seed), cell)
        for model, results in files
        for seed, of_seed in results["seeds"].items()
        for keep_n, cell in of_seed["keep_n"].items()
    ]
    return sorted(found, key=lambda cell: (order.index(cell[0]), -cell[1], cell[2]))


def unseen_rows(files: Files) -> list[Row]:
    """A row for every keep_n of a model: what was found, a seed after the other, and in how many of them."""
    whole = [cell for cell in cells(files) if "compared" in cell[3]]
    places = dict.fromkeys((model, keep_n) for model, keep_n, _, _ in whole)
    return [
        _row(model, keep_n, {seed: cell for name, n, seed, cell in whole if (name, n) == (model, keep_n)})
        for model, keep_n in places
    ]


def _row(model: str, keep_n: int, of_seeds: Mapping[int, Mapping[str, Any]]) -> Row:
    found = [_of_seed(cell) for cell in of_seeds.values()]
    row = {name: [of_seed[name] for of_seed in found] for name in found[0]}
    rises, calls = row["interval"], row["net_interval"]
    return row | {
        "model": model,
        "keep_n": keep_n,
        "seeds": list(of_seeds),
        "means": {name: None if None in row[name] else mean(row[name]) for name in AVERAGED},
        "net_percent": [None if net is None else 100 * net for net in row["net"]],
        "less": sum(upper < 1 for _, upper in filter(None, rises)),
        "more": sum(lower > 1 for lower, _ in filter(None, rises)),
        "fewer_calls": sum(upper < 0 for _, upper in filter(None, calls)),
        "more_calls": sum(lower > 0 for lower, _ in filter(None, calls)),
        "verdicts": _counted(row["verdict"]),
        "packs": _counted([_worst(of_packs) for of_packs in row["pack_verdicts"]]),
    }


def _of_seed(cell: Mapping[str, Any]) -> Row:
    gate, over = cell["gate"], cell["compared"]["best ranking"]
    default, ranking = gate["default"], gate["best ranking"]
    return {
        "dppl": default["dppl"],
        "ranking": cell["best"],
        "ranking_dppl": ranking["dppl"],
        "ratio": over["rise"]["ratio"],
        "interval": _interval(over["rise"]),
        "worst": default["worst_over_union"],
        "calls": default["calls"]["exact"],
        "net": default["calls"]["net"],
        "ranking_net": ranking["calls"]["net"],
        "net_interval": _interval(over["net_calls"]),
        "mass_dppl": gate["reap-mass"]["dppl"],
        "mass_net": gate["reap-mass"]["calls"]["net"],
        "seconds": None if cell["search"]["resumed"] else cell["search"]["seconds"],
        "verdict": default["v3"]["verdict"],
        "pack_verdicts": [pack["verdict"] for pack in cell.get("cells", {}).get("default", {}).values()],
    }


def _counted(verdicts: Sequence[str | None]) -> str | None:
    if not any(verdicts):
        return None
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts]
    return ", ".join([*counts, f"{verdicts.count(None)} not judged"] if None in verdicts else counts)


def _worst(verdicts: Sequence[str]) -> str | None:
    return max(verdicts, key=VERDICTS.index, default=None)


def _interval(found: Mapping[str, float | None]) -> list[float] | None:
    lower, upper = found["lower"], found["upper"]
    return None if lower is None or upper is None else [lower, upper]


def sweep_rows(files: Files) -> tuple[list[str], list[Row]]:
    """The places, `model keep_n`, and by setting its ratio to the reference there, a seed after the other; how many of
    them are above 1, and below, beyond their intervals. Of SHOWN settings: those that are worse least often and least,
    and of eaft-reap; of those that choose alike everywhere, the first."""
    swept = [cell for cell in cells(files) if "sweep" in cell[3]]
    places = list(dict.fromkeys(f"{model} {keep_n}" for model, keep_n, _, _ in swept))
    found: dict[str, Row] = {}
    for model, keep_n, _, cell in swept:
        for name, of in cell["sweep"]["settings"].items():
            row = found.setdefault(name, {"setting": name, "worse": 0, "better": 0, "of": 0})
            row.setdefault(f"at{places.index(f'{model} {keep_n}')}", []).append(of["ratio"])
            row["of"] += 1
            row["worse"] += of["lower"] is not None and of["lower"] > 1
            row["better"] += of["upper"] is not None and of["upper"] < 1

    def ratios(row: Row) -> list[float]:
        return [one for key, several in row.items() if key.startswith("at") for one in several if one is not None]

    whole = [row for row in found.values() if row["of"] == len(swept) and ratios(row)]
    different = {tuple(ratios(row)): row for row in reversed(whole)}
    others = [row for row in reversed(different.values()) if row["setting"] != REFERENCE]
    ranked = sorted(others, key=lambda row: (row["worse"], mean(ratios(row))))
    return places, [row for place, row in enumerate(ranked) if place < SHOWN or row["setting"] == "eaft-reap"]


def commands(files: Files, part: str) -> Iterator[str]:
    """By which `part` of the results was measured, one for each model."""
    for model in dict.fromkeys(name for name, _ in files):
        of_model = [(name, results) for name, results in files if name == model]
        found = [cell for cell in cells(of_model) if part in cell[3]]
        if not found:
            continue
        asked = of_model[0][1]["arguments"]
        given: dict[str, Any] = {
            "seeds": " ".join(str(seed) for seed in sorted({seed for _, _, seed, _ in found})),
            "keep-n": " ".join(str(keep_n) for keep_n in dict.fromkeys(keep_n for _, keep_n, _, _ in found)),
            **{name: asked[name.replace("-", "_")] for name in ("rows", "seq-len", "blocks", "device", "dtype")},
        }
        options = [f"--{name} {value}" for name, value in given.items() if value is not None]
        if part == "sweep":
            options.append("--sweep only")
        elif any("cells" in cell for *_, cell in found):
            options.append("--pack-cells")
        packs = "PACKS" if asked["packs"] else "--calibration CALIBRATION --gate GATE"
        yield f"PYTHONPATH=. python benchmarks/unseen.py {model} {packs} {' '.join(options)} --work DIR --out FILE"


def measurement(
    files: Files, commit: str, part: str, what: str, columns: Mapping[str, str], rows: list[Row]
) -> dict[str, Any]:
    """As a file of docs/data."""
    models = [results["model"] for _, results in files]
    devices = sorted({f"{model['device']}, {model['dtype']}" for model in models})
    return {
        "what": what,
        "command": [*commands(files, part), __doc__.split("\n\n")[1].strip().replace(" \\\n      ", " ")],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": "; ".join(devices),
        "software": ", ".join(sorted({f"torch {model['torch'].split('+')[0]}" for model in models})),
        "commit": commit,
        "columns": [{"heading": heading, "cell": cell} for heading, cell in columns.items()],
        "rows": rows,
    }


def write_tables(files: Files, out: Path, *, commit: str) -> list[Path]:
    """Those that there is something for; `commit` is what was measured."""
    written = []
    if rows := unseen_rows(files):
        what = (
            "What `auto` runs with packs (`refined`) against the best ranking, chosen on calibration rows among all "
            "scorers by plain and balanced weights, on rows that no experts were chosen on. Where there is one "
            "figure, it is the mean of the seeds, else they follow each other: dPPL of UNION; the ratio of the mean "
            "rises of the log-loss, and at how many seeds it is below and above 1 beyond the interval of a paired "
            "bootstrap over documents; the largest dPPL of a pack's rows in UNION over UNION's; exact calls lost "
            "less gained as a share of those that the base writes exactly right, and at how many seeds fewer and "
            "more beyond the interval than by the ranking; near-lossless-v3's verdict of UNION, and the worst of "
            "every pack's own cells"
        )
        write_json(out / "unseen.json", measurement(files, commit, "compared", what, COLUMNS, rows))
        written.append(out / "unseen.json")
    places, swept = sweep_rows(files)
    if swept:
        what = (
            f"The rise of UNION's log-loss over that of `{REFERENCE}`, a seed after the other, by weights of the "
            "tokens, on some of the rows that nothing was chosen on; in how many of these cells it is more, and less, "
            f"beyond its interval. The {SHOWN} that lose least, each for all that choose alike, and `eaft-reap`"
        )
        columns = {
            "weights": "{setting}",
            **{place: f"{{at{number}:.2f}}" for number, place in enumerate(places)},
            "more": "{worse} of {of}",
            "less": "{better} of {of}",
        }
        write_json(out / "unseen-sweep.json", measurement(files, commit, "sweep", what, columns, swept))
        written.append(out / "unseen-sweep.json")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="MODEL=FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True, help="that was measured")
    given = parser.parse_args()
    named = [one.partition("=")[::2] for one in given.results]
    files = [(name, read_object(Path(path), what="results")) for name, path in named]
    print(*write_tables(files, given.out, commit=given.commit), sep="\n")


if __name__ == "__main__":
    main()
