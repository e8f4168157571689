"""Splitting a packs directory into rows to calibrate on and rows to gate on, disjoint by row identity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eaftgate.building import build
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.outputs import check_directory, up_to_date
from eaftgate.packs.pack import pack_paths, read_table, row_identity, shuffle_key
from eaftgate.records import Record, read_model, write_model

PARTS = ("calibration", "gate")
SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class PackSplit:
    pack: str
    calibration_rows: int
    gate_rows: int


class _Split(Record):
    """split.json."""

    calib_frac: float
    seed: int
    packs: tuple[PackSplit, ...]


def split_packs(directory: Path, out: Path, *, calib_frac: float, seed: int) -> list[PackSplit]:
    """Write `out/calibration` and `out/gate`, each with one file per pack, all columns kept, file order kept.

    Within a pack the rows of lowest sha256(seed : identity) go to calibration until `calib_frac` of its rows are
    there. Equal texts always go to the same part, within a pack and across packs. What is there and was made from the
    same is left as it is (eaftgate.outputs).
    """
    if not 0.0 < calib_frac < 1.0:
        raise UserError(f"--calib-frac is {calib_frac}: it must lie between 0 and 1, both excluded")
    check_directory(out, [directory])  # before the packs are read
    paths = pack_paths(directory)
    packs = {path.name: sha256_file(path) for path in paths}
    made_from = {"command": "packs split", "packs": packs, "calib_frac": calib_frac, "seed": seed}
    if up_to_date(out, made_from):
        made = read_model(out / SPLIT_FILE, _Split, what="split", remedy=f"remove {out}")
        return list(made.packs)
    part_of: dict[str, str] = {}
    with build(out, made_from=made_from) as work:
        splits = [_split_pack(path, work.payload, part_of, calib_frac=calib_frac, seed=seed) for path in paths]
        write_model(work.payload / SPLIT_FILE, _Split(calib_frac=calib_frac, seed=seed, packs=tuple(splits)))
    return splits


def _split_pack(path: Path, out: Path, part_of: dict[str, str], *, calib_frac: float, seed: int) -> PackSplit:
    table = read_table(path)
    identities = [row_identity(text) for text in table["text"].to_pylist()]
    copies = Counter(identities)
    wanted = round(calib_frac * len(identities))
    have = sum(count for identity, count in copies.items() if part_of.get(identity) == "calibration")
    for identity in sorted(copies, key=lambda identity: shuffle_key(seed, identity)):
        if identity not in part_of:
            part_of[identity] = "calibration" if have < wanted else "gate"
            have += copies[identity]  # past what is wanted it does not matter
    rows = {part: [i for i, identity in enumerate(identities) if part_of[identity] == part] for part in PARTS}
    for part, picked in rows.items():
        if not picked:
            raise UserError(
                f"pack {path} has too few rows ({len(identities)}) for --calib-frac {calib_frac}: no {part} row"
            )
        (out / part).mkdir(exist_ok=True)
        pq.write_table(_rows(table, picked), out / part / path.name, compression="zstd")
    return PackSplit(path.stem, len(rows["calibration"]), len(rows["gate"]))


def _rows(table: pa.Table, picked: Sequence[int]) -> pa.Table:
    """The rows `picked`, of whatever types: not every one of them can be taken."""
    try:
        return table.take(pa.array(picked))
    except pa.ArrowNotImplementedError:
        return pa.concat_tables([table.slice(number, 1) for number in picked])
