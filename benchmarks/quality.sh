#!/usr/bin/env bash
# The main job on a real trained model: profile on one part of the rows, gate every method on the rest.
#   LAB_A=DIR PACKS=DIR OUT=DIR [GATE_ARGS="--dequantize --dtype=float32"] benchmarks/quality.sh
# Ends with a table (markdown) of UNION and of every pack. A red gate is a result here, not an error.
set -euo pipefail
: "${LAB_A:?the trained model}" "${PACKS:?a directory of packs}" "${OUT:?a directory to make}"
BATCH=${BATCH:-16} BLOCKS=${BLOCKS:-512} ROWS=${ROWS:-1500}
mkdir -p "$OUT"

eaftgate packs split "$PACKS" --calib-frac 0.4 --seed 3407 --out "$OUT/split"
eaftgate profile "$LAB_A" --packs "$OUT/split/calibration" --num-rows "$ROWS" --seq-len 1024 --batch-size "$BATCH" \
  --dtype float32 --out "$OUT/profile"
checkpoints=()
prune() { # NAME ARGUMENTS...
  eaftgate prune "$LAB_A" --profile "$OUT/profile" --out "$OUT/$1" "${@:2}"
  checkpoints+=("--checkpoint=$OUT/$1")
}
for n in 24 20; do
  prune "eaft-reap_$n" --keep-n $n --method eaft-reap
  prune "eaft-reap-token_$n" --keep-n $n --method eaft-reap --alignment token
  for method in reap-mass reap ean frequency; do prune "${method}_$n" --keep-n $n --method $method; done
  for seed in 0 1 2; do prune "random${seed}_$n" --keep-n $n --method random --seed $seed; done
done
python3 -m pytest gates/ -q --base="$LAB_A" "${checkpoints[@]}" --packs="$OUT/split/gate" --policy=near-lossless-v1 \
  --seq-lens=1024 --num-blocks="$BLOCKS" --batch-size="$BATCH" --dtype=float32 ${GATE_ARGS:-} \
  --results="$OUT/run" --junitxml="$OUT/junit.xml" --tb=no | grep -v ^FAILED || true
python3 benchmarks/quality_table.py "$OUT/run/parity.json"
