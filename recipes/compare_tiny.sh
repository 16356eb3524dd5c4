#!/usr/bin/env bash
# Does multi-attempt training work? Single- against multi-attempt PPO from the same warm start with the same number of
# episodes, in miniature: without an accelerator, without network.
#
#   recipes/compare_tiny.sh [--quick]        --quick: one seed
#
# For each seed a warm start (examples/tiny_math), the arms `single` (max_attempts=1) and `multi` (uniform 1..5), and
# the evaluation of all three with 1..5 allowed attempts, greedy and at temperature 1; for the first seed also `multi`
# from a warm start without dialogues that ask to repeat an answer. Then the figures and report.md. Stages that are
# finished are skipped: run it again after an interruption.
#
# Settings: OUT (outputs/compare_tiny)  SEEDS ("1 2 3")  STEPS (32)  EPISODES (128 a step)  QUESTIONS (1000 held out)
#   OVERRIDES (none: Hydra overrides of all trainings, such as "algorithm.lam=0.95")
#   JOBS (2: so many seeds at a time, each with its share of the cores; 8 GiB of memory each)
# Hardware, time, expected figures: recipes/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="1 2 3"
case "${1:-}" in
  "") ;;
  --quick) seeds=1 ;;
  *) echo "compare_tiny.sh: the argument must be --quick or absent; got '$1'" >&2; exit 2 ;;
esac
OUT=${OUT:-outputs/compare_tiny} SEEDS=${SEEDS:-$seeds} QUESTIONS=${QUESTIONS:-1000} JOBS=${JOBS:-2}
OVERRIDES=${OVERRIDES:-}
export STEPS=${STEPS:-32} EPISODES=${EPISODES:-128}
for name in QUESTIONS JOBS STEPS EPISODES; do
  if ! [[ ${!name} =~ ^[1-9][0-9]*$ ]]; then
    echo "compare_tiny.sh: $name must be a number of at least 1; got '${!name}'" >&2
    exit 2
  fi
done
# Threads that wait for a core cost a small model far more than they give it.
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > JOBS ? cores / JOBS : 1))}
mkdir -p "$OUT/logs" "$OUT/done"
OUT=$(cd "$OUT" && pwd)
tiny=examples/tiny_math
first=${SEEDS%% *}

# One run, one state of the code: stages of two would not go together.
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
settings="STEPS=$STEPS EPISODES=$EPISODES QUESTIONS=$QUESTIONS${OVERRIDES:+ OVERRIDES=${OVERRIDES// /,}} COMMIT=$commit"
exec 9>"$OUT/.lock"
if ! flock -n 9; then
  echo "compare_tiny.sh: OUT must not be in use by another call; got $OUT. Wait for that one, or choose another OUT." >&2
  exit 2
fi
if [ -e "$OUT/settings" ] && [ "$(cat "$OUT/settings")" != "$settings" ]; then
  echo "compare_tiny.sh: OUT must be of a run with the same settings; got $(cat "$OUT/settings") there and $settings" \
    "here. Choose another OUT." >&2
  exit 2
fi
echo "$settings" >"$OUT/settings"

# stage NAME COMMAND...: runs the command once; its output goes to a log, its time to times.tsv.
stage() {
  local name=$1 log=$OUT/logs/$1.log started=$SECONDS
  shift
  if [ -e "$OUT/done/$name" ]; then return; fi
  mkdir -p "$(dirname "$log")" "$(dirname "$OUT/done/$name")"
  if ! "$@" >"$log" 2>&1 </dev/null 9>&-; then
    printf '%s  %-32s failed; the end of %s:\n' "$(date +%H:%M:%S)" "$name" "$log" >&2
    tail -n 40 "$log" >&2
    exit 1
  fi
  printf '%s\t%d\n' "$name" $((SECONDS - started)) >>"$OUT/times.tsv"
  touch "$OUT/done/$name"
  printf '%s  %-32s %d s\n' "$(date +%H:%M:%S)" "$name" $((SECONDS - started))
}

# evaluate MODEL NAME LABEL: greedy and at temperature 1, with one start of vLLM. The held-out questions are the same for
# all seeds; the first seed's file is read.
evaluate() {
  stage "seed-$seed/evaluate-$2" \
    python -m verl_multiattempt evaluate --model "$1" --data "$OUT/seed-$first/val.parquet" \
    --out "$folder/evaluation/$2" --label "$3" --temperature 0 1 --protocol paper --attempts 1 2 3 4 5 \
    --limit "$QUESTIONS" --seed "$seed" --max-tokens 160 --max-tokens-per-attempt 8 --set min_tokens_per_attempt=8
}

# train DATA MODEL OUT [OVERRIDE...]: the composed configuration is kept beside what was trained. Two passes over the
# episodes of a step learn more in a step than the example's one and cost little beside sampling them: 32 steps fit into
# 45 minutes, less certain of the second attempt than 60 of one pass (recipes/README.md).
train() {
  set -- "$@" actor_rollout_ref.actor.ppo_epochs=2 trainer.critic_warmup=3 \
    actor_rollout_ref.actor.optim.lr_warmup_steps=6 $OVERRIDES
  mkdir -p "$3" && COMPOSE=1 $tiny/train.sh "$@" >"$3/config.yaml" && $tiny/train.sh "$@"
}

# compare SEED: the warm start, both arms and their evaluation.
compare() {
  local seed=$1 folder=$OUT/seed-$1
  export SEED=$seed
  stage "seed-$seed/warm-start" python $tiny/make.py --out "$folder" --seed "$seed" --val-rows "$QUESTIONS"
  stage "seed-$seed/train-single" train "$folder" "$folder/model" "$folder/single" multiattempt.max_attempts=1
  stage "seed-$seed/train-multi" train "$folder" "$folder/model" "$folder/multi"
  evaluate "$folder/model" warm "warm start"
  evaluate "$folder/single/trained" single single
  evaluate "$folder/multi/trained" multi multi
}

# without_repeats SEED: `multi` from a warm start that never saw a request to repeat an answer.
without_repeats() {
  local seed=$1 folder=$OUT/seed-$1
  local bare=$folder/no-repeats
  export SEED=$seed
  stage "seed-$seed/warm-start-no-repeats" \
    python $tiny/make.py --out "$bare" --seed "$seed" --val-rows "$QUESTIONS" --repeat-share 0
  stage "seed-$seed/train-multi-no-repeats" train "$bare" "$bare/model" "$bare/multi"
  evaluate "$bare/model" warm-no-repeats "warm start without repeat dialogues"
  evaluate "$bare/multi/trained" multi-no-repeats "multi without repeat dialogues"
}

# Each in a process group of its own, so that an interrupted run leaves nothing behind.
set -m
chains=()
end_chains() {
  for chain in "${chains[@]}"; do kill -TERM -- "-$chain" 2>/dev/null || true; done
}
trap 'end_chains; wait; exit 130' INT TERM HUP
trap 'printf "whole run\t%d\n" $SECONDS >>"$OUT/times.tsv"' EXIT
status=0
for chain in $(printf 'compare:%s ' $SEEDS) "without_repeats:$first"; do
  while (($(jobs -rp | wc -l) >= JOBS)); do wait -n || status=1; done
  "${chain%%:*}" "${chain##*:}" &
  chains+=($!)
done
while (($(jobs -rp | wc -l) > 0)); do wait -n || status=1; done
if ((status)); then
  echo "compare_tiny.sh: a stage failed (above); run it again to go on with what is missing" >&2
  exit 1
fi
set +m
python recipes/compare_tiny_report.py --out "$OUT" --seeds $SEEDS --seconds "$SECONDS"
