#!/usr/bin/env bash
# near-lossless-v2 on a real trained model: full budget, nested budgets, stopping early, the noise floor, planted faults.
#   LAB_A=DIR PACKS=DIR OUT=DIR [GATE_ARGS=--dequantize] benchmarks/verdicts.sh
# A red gate is a result here, not an error.
set -euo pipefail
: "${LAB_A:?the trained model}" "${PACKS:?a directory of packs}" "${OUT:?a directory to make}"
BATCH=${BATCH:-16} BLOCKS=${BLOCKS:-512} ROWS=${ROWS:-1500}
mkdir -p "$OUT"

eaftgate packs split "$PACKS" --calib-frac 0.4 --seed 3407 --out "$OUT/split"
eaftgate profile "$LAB_A" --packs "$OUT/split/calibration" --num-rows "$ROWS" --seq-len 1024 --batch-size "$BATCH" \
  --dtype float32 --out "$OUT/profile"
for n in 24 20; do eaftgate prune "$LAB_A" --profile "$OUT/profile" --out "$OUT/keep$n" --keep-n $n; done
eaftgate prune "$LAB_A" --out "$OUT/random24" --keep-n 24 --method random
gate() { # RESULTS ARGUMENTS...
  python3 -m pytest gates/ -q --base="$LAB_A" --packs="$OUT/split/gate" --seed=3407 --seq-lens=1024 \
    --num-blocks="$BLOCKS" --batch-size="$BATCH" --dtype=float32 ${GATE_ARGS:-} --results="$OUT/$1" \
    --junitxml="$OUT/$1.xml" --tb=no "${@:2}" | grep -v ^FAILED || true
}
all=("--checkpoint=$OUT/keep24" "--checkpoint=$OUT/keep20" "--checkpoint=$OUT/random24")
COLUMNS=140 gate full "${all[@]}"
COLUMNS=140 gate sequential "${all[@]}" --sequential
python3 - "$OUT" <<'END'
import json, pathlib, sys
import xml.etree.ElementTree as tree
out = pathlib.Path(sys.argv[1])
cells = {run: json.loads((out / run / "parity.json").read_text())["cells"] for run in ("full", "sequential")}
print("\n| cell | full: blocks, verdict | sequential: blocks, verdict |\n|---|---|---|")
for full, early in zip(cells["full"], cells["sequential"]):
    print(f"| {full['name']} {full['pack']} | {full['num_blocks']}, {full['verdict']} | {early['num_blocks']}, {early['verdict']} |")
print("\n| floor, UNION 1024 | rerun | batch and order | one ulp | margin |\n|---|---:|---:|---:|---:|")
floor = {}
for case in tree.parse(out / "full.xml").iter("testcase"):
    if case.attrib["name"].startswith("test_floor["):
        tier, metric = case.attrib["name"].removesuffix("]").split("-")[-2:]
        floor.setdefault(metric, {})[tier] = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
for metric, tiers in floor.items():
    values = " | ".join(tiers[tier]["estimate"] for tier in ("rerun", "batch", "ulp"))
    print(f"| {metric} | {values} | {tiers['ulp']['margin']} |")
print("\nhalves:", [(p.attrib["name"], p.attrib["value"]) for c in tree.parse(out / "full.xml").iter("testcase")
                    if c.attrib["name"].startswith("test_halves") for p in c.iter("property")])
END
eaftgate budgets "$OUT/full" --blocks 8,32,128,512 --json > "$OUT/budgets.json"
PYTHONPATH="tests:${PYTHONPATH:-}" python3 benchmarks/ladder.py "$LAB_A" "$OUT/profile" "$OUT/split/gate" --blocks "$BLOCKS"
