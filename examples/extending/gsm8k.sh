#!/usr/bin/env bash
# GSM8K, decided by verl's own reward function: no code at all.
#   TRAIN, VAL   GSM8K as published, JSON Lines with question and answer
#   OUT          folder for data, tiny model and checkpoints (outputs/gsm8k)
#   MODEL, GPUS  see train.sh. With MODEL, all rows are used; the tiny model gets short questions with small answers.
# Further arguments are passed to verl.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TRAIN:?set TRAIN to the training rows of GSM8K, a JSON Lines file}" "${VAL:?set VAL to the test rows of GSM8K}"
OUT=${OUT:-outputs/gsm8k}
. examples/extending/train.sh

[[ -n ${MODEL:-} ]] && few=() || few=(--max-chars 180 --max-gold 9)
python examples/extending/gsm8k_data.py --train "$TRAIN" --val "$VAL" --out "$OUT" "${few[@]}"
# Each row asks for "####"; the opening does not ask for \boxed{}.
train gsm8k 'You have {max_attempts} attempt{s} to answer the question.' \
  "+multiattempt.verifier.kwargs.answer_pattern='#### (-?[0-9.,]+)'" "$@"
