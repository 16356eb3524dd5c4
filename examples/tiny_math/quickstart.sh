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
rm -rf "$OUT/checkpoints" "$OUT/episodes"
TENSORBOARD_DIR="$OUT/tensorboard" python $here/progress.py \
  --log "$OUT/train.log" --metrics "$OUT/metrics.jsonl" --steps "$STEPS" -- \
  python -m verl.trainer.main_ppo +recipe=multiattempt +platform=cpu \
  data.train_files="$OUT/train.parquet" data.val_files="$OUT/val.parquet" \
  data.train_batch_size="$EPISODES" data.max_prompt_length=96 data.max_response_length=160 data.seed="$SEED" \
  multiattempt.seed="$SEED" multiattempt.max_tokens_per_attempt=8 multiattempt.min_tokens_per_attempt=8 \
  multiattempt.record.enabled=true multiattempt.record.dir="$OUT/episodes" \
  actor_rollout_ref.model.path="$OUT/model" critic.model.path="$OUT/model" \
  actor_rollout_ref.rollout.seed="$SEED" \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=128 \
  actor_rollout_ref.actor.ppo_mini_batch_size=$((EPISODES / 4)) \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32 \
  actor_rollout_ref.actor.optim.lr=6e-4 actor_rollout_ref.actor.optim.lr_scheduler_type=cosine \
  actor_rollout_ref.actor.optim.lr_warmup_steps=5 actor_rollout_ref.actor.optim.min_lr_ratio=0.2 \
  actor_rollout_ref.actor.use_kl_loss=false \
  critic.ppo_mini_batch_size=$((EPISODES / 4)) critic.ppo_micro_batch_size_per_gpu=32 critic.optim.lr=1e-3 \
  actor_rollout_ref.actor.checkpoint.save_contents='[model,optimizer,extra,hf_model]' \
  trainer.critic_warmup=5 trainer.total_training_steps="$STEPS" trainer.total_epochs=1000 \
  trainer.val_before_train=false trainer.test_freq=-1 \
  trainer.save_freq="$STEPS" trainer.default_local_dir="$OUT/checkpoints" \
  trainer.project_name=quickstart trainer.experiment_name=seed-"$SEED" trainer.logger='[console,file,tensorboard]' "$@"

stage "4/4 evaluation after training"
trained=$OUT/checkpoints/global_step_$STEPS/actor/huggingface
evaluate --model "$trained" --out "$OUT/after.json"

stage "done"
python $here/evaluate.py --compare "$OUT/before.json" "$OUT/after.json" --checkpoint "$trained" --log "$OUT/train.log"
