#!/usr/bin/env bash
# Small programming tasks, decided by running tests (code_task.py); the feedback is the first test that failed.
#   OUT          folder for data, tiny model and checkpoints (outputs/code)
#   MODEL, GPUS  see train.sh. With MODEL, all kinds of tasks are used; the tiny model gets functions of a number.
# Further arguments are passed to verl.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/code}
. examples/extending/train.sh

[[ -n ${MODEL:-} ]] && few=() || few=(--kinds number)
python examples/extending/code_data.py --out "$OUT" "${few[@]}"
train code 'You have {max_attempts} attempt{s}. Put the function in a ```python block; it is tested.' \
  reward.custom_reward_function.path="$PWD/examples/extending/code_task.py" \
  +multiattempt.verifier.kwargs.answer_key=answer \
  multiattempt.verifier.num_workers=8 multiattempt.verifier.timeout_s=15 \
  multiattempt.feedback.use_verifier_text=true multiattempt.feedback.max_verifier_chars=300 "$@"
