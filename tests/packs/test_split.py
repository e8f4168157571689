"""Calibration and gate rows are disjoint by identity, and nothing of the packs is lost (SPEC section 2)."""

import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.packs.pack import named_packs
from eaftgate.packs.split import PackSplit, split_packs


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_packs(directory: Path, texts_of: dict[str, list[str]]) -> Path:
    directory.mkdir()
    for name, texts in texts_of.items():
        pq.write_table(pa.table({"text": texts, "place": list(range(len(texts)))}), directory / f"{name}.parquet")
    return directory


def rows(path: Path) -> list[tuple[str, int]]:
    table = pq.read_table(path)
    return list(zip(table["text"].to_pylist(), table["place"].to_pylist(), strict=True))


def slow_calibration(texts_of: dict[str, list[str]], calib_frac: float, seed: int) -> dict[str, list[str]]:
    """Pack after pack, texts in the order of their keys move to calibration until enough rows are there."""
    decided: dict[str, bool] = {}
    result = {}
    for name in sorted(texts_of):
        texts = texts_of[name]
        for text in sorted(set(texts), key=lambda text: sha256(f"{seed}:{sha256(text)}")):
            if text not in decided:
                moved = sum(decided.get(other, False) for other in texts)
                decided[text] = moved < round(calib_frac * len(texts))
        result[name] = [text for text in texts if decided[text]]
    return result


TEXTS = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=12)


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(("one", "two", "six")), TEXTS, min_size=1), st.floats(0.1, 0.9), st.integers(0, 9)
)
def test_equals_the_slow_oracle(texts_of: dict[str, list[str]], calib_frac: float, seed: int) -> None:
    expected = slow_calibration(texts_of, calib_frac, seed)
    possible = all(0 < len(expected[name]) < len(texts) for name, texts in texts_of.items())
    with tempfile.TemporaryDirectory() as temporary:
        packs, out = write_packs(Path(temporary) / "packs", texts_of), Path(temporary) / "out"
        if not possible:
            with pytest.raises(UserError, match="has too few rows"):
                split_packs(packs, out, calib_frac=calib_frac, seed=seed)
            assert [path.name for path in Path(temporary).iterdir()] == ["packs"]
            return
        split_packs(packs, out, calib_frac=calib_frac, seed=seed)
        parts = {part: {name: rows(out / part / f"{name}.parquet") for name in texts_of}
                 for part in ("calibration", "gate")}  # fmt: skip
        originals = {name: rows(packs / f"{name}.parquet") for name in texts_of}
    assert {name: [text for text, _ in held] for name, held in parts["calibration"].items()} == expected
    for name, original in originals.items():
        calibration, gate = parts["calibration"][name], parts["gate"][name]
        assert Counter(calibration) + Counter(gate) == Counter(original)
        assert calibration == sorted(calibration, key=original.index)  # file order is kept
        assert gate == sorted(gate, key=original.index)
    texts = [{text for held in part.values() for text, _ in held} for part in parts.values()]
    assert not texts[0] & texts[1]


def test_duplicates_stay_together_within_and_across_packs(tmp_path: Path) -> None:
    texts_of = {"a": ["twin"] * 5 + list("abcdefghijklmno"), "b": ["twin", "a", "b", *"uvwxyz"]}
    packs = write_packs(tmp_path / "packs", texts_of)
    for seed in range(8):
        split = split_packs(packs, tmp_path / f"out{seed}", calib_frac=0.5, seed=seed)
        found = [{identity for pack in named_packs(tmp_path / f"out{seed}" / part, seed=None).values()
                  for identity in pack.identities} for part in ("calibration", "gate")]  # fmt: skip
        assert not found[0] & found[1]
        assert found[0] | found[1] == {sha256(text) for texts in texts_of.values() for text in texts}
        # Five equal rows count as five: the pack overshoots its half by no more than the last text moved.
        assert 10 <= split[0].calibration_rows < 15


def test_every_column_and_its_type_is_kept(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    table = pa.table(
        {
            "id": pa.array(range(8), type=pa.int16()),
            "text": [f"row {i}" for i in range(8)],
            "domain": pa.array(list("aabbccdd")).dictionary_encode(),
            "tags": [[str(i)] * i for i in range(8)],
            "score": pa.array([None, *range(7)], type=pa.float32()),
        },
        metadata={"origin": "test"},
    )
    pq.write_table(table, tmp_path / "packs" / "p.parquet")
    split_packs(tmp_path / "packs", tmp_path / "out", calib_frac=0.5, seed=3407)
    original = pq.read_table(tmp_path / "packs" / "p.parquet").schema
    parts = [pq.read_table(tmp_path / "out" / part / "p.parquet") for part in ("calibration", "gate")]
    assert original.metadata[b"origin"] == b"test"
    assert all(part.schema.equals(original, check_metadata=True) for part in parts)
    joined = sorted((row for part in parts for row in part.to_pylist()), key=lambda row: row["id"])
    assert joined == table.to_pylist()


def test_what_is_written_and_returned(tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "packs", {"b": list("abcdefgh"), "a": list("mnop")})
    splits = split_packs(packs, tmp_path / "out", calib_frac=0.25, seed=7)
    assert splits == [PackSplit("a", 1, 3), PackSplit("b", 2, 6)]
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    assert record["calib_frac"] == 0.25
    assert record["seed"] == 7
    assert record["packs"][1] == {"pack": "b", "calibration_rows": 2, "gate_rows": 6}
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    of_packs = ["calibration/a.parquet", "calibration/b.parquet", "gate/a.parquet", "gate/b.parquet"]
    assert files == [*of_packs, "made_from.json", "split.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "packs"]
    written = pq.ParquetFile(tmp_path / "out" / "gate" / "a.parquet").metadata
    assert written.row_group(0).column(0).compression == "ZSTD"


def test_the_seed_decides(tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "packs", {"p": [str(i) for i in range(30)]})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        split_packs(packs, tmp_path / name, calib_frac=0.5, seed=seed)
    a, b, c = (rows(tmp_path / name / "calibration" / "p.parquet") for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("calib_frac", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_outside_are_refused(tmp_path: Path, calib_frac: float) -> None:
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        split_packs(tmp_path, tmp_path / "out", calib_frac=calib_frac, seed=0)


def test_a_failing_pack_leaves_nothing_behind(tmp_path: Path) -> None:
    packs = write_packs(tmp_path / "packs", {"a": list("abcd")})
    (packs / "z.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"z\.parquet cannot be read"):
        split_packs(packs, tmp_path / "out", calib_frac=0.5, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["packs"]
