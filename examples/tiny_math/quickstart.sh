#!/usr/bin/env bash
# First light without an accelerator: makes a tiny model and its data, trains it with PPO to use its second attempt,
# and shows accuracy before and after. About 8 minutes on 2 cores. Called by `make quickstart`; settings:
#   OUT (outputs/quickstart)  SEED (1)  STEPS (60)  EPISODES (128 a step)  QUESTIONS (500 held out, for the evaluation)
# Further arguments are passed to verl: quickstart.sh multiattempt.max_attempts=1 trains single-attempt.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/quickstart} SEED=${SEED:-1} STEPS=${STEPS:-60} EPISODES=${EPISODES:-128} QUESTIONS=${QUESTIONS:-500}
here=examples/tiny_math
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
started=$SECONDS
stage() { printf '\n[%d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"; }

stage "1/4 model and data: $OUT"
python $here/make.py --out "$OUT" --seed "$SEED"

stage "2/4 evaluation before training"
evaluate() {
  python $here/evaluate.py --data "$OUT/val.parquet" --limit "$QUESTIONS" --response-length 160 \
    --tokens-per-attempt 8 "$@"
}
evaluate --model "$OUT/model" --out "$OUT/before.json"

stage "3/4 training: PPO with a critic, $STEPS steps of $EPISODES episodes (verl's log: $OUT/train.log)"
SEED=$SEED STEPS=$STEPS EPISODES=$EPISODES $here/train.sh "$OUT" "$OUT/model" "$OUT" "$@"

stage "4/4 evaluation after training"
trained=$OUT/trained
evaluate --model "$trained" --out "$OUT/after.json"

stage "done"
python $here/evaluate.py --compare "$OUT/before.json" "$OUT/after.json" --checkpoint "$trained" --log "$OUT/train.log"
