#!/usr/bin/env bash
# Trains a tiny_math model with multi-attempt PPO and a critic, on a machine without an accelerator:
#
#   train.sh DATA MODEL OUT [OVERRIDE ...]      e.g. multiattempt.max_attempts=1 trains single-attempt
#
# DATA holds train.parquet and val.parquet. Written to OUT: train.log, metrics.jsonl, tensorboard/, episodes/ and
# checkpoints/; the trained model is OUT/trained. Settings: SEED (1)  STEPS (60)  EPISODES (128 a step). COMPOSE=1 prints
# the composed configuration instead.
set -euo pipefail
absolute() { (cd "$1" && pwd); }
mkdir -p "$3"
here=$(absolute "$(dirname "$0")") data=$(absolute "$1") model=$(absolute "$2") out=$(absolute "$3")
shift 3
SEED=${SEED:-1} STEPS=${STEPS:-60} EPISODES=${EPISODES:-128}
if ((EPISODES % 4)) || ((EPISODES > 128 && EPISODES % 128)); then
  echo "train.sh: EPISODES must be a multiple of 4, above 128 a multiple of 128; got $EPISODES" >&2
  exit 2
fi
mini=$((EPISODES / 4)) micro=$((EPISODES < 128 ? EPISODES / 4 : 32))
# In OUT, with relative paths there: two runs that differ in OUT alone have one configuration.
cd "$out"
command=(
  python -m verl.trainer.main_ppo +recipe=multiattempt +platform=cpu
  data.train_files="$data/train.parquet" data.val_files="$data/val.parquet"
  data.train_batch_size="$EPISODES" data.max_prompt_length=96 data.max_response_length=160 data.seed="$SEED"
  multiattempt.seed="$SEED" multiattempt.max_tokens_per_attempt=8 multiattempt.min_tokens_per_attempt=8
  multiattempt.record.enabled=true multiattempt.record.dir=episodes
  actor_rollout_ref.model.path="$model" critic.model.path="$model"
  actor_rollout_ref.rollout.seed="$SEED"
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=$((EPISODES < 128 ? EPISODES : 128))
  actor_rollout_ref.actor.ppo_mini_batch_size=$mini
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=$micro
  actor_rollout_ref.actor.optim.lr=6e-4 actor_rollout_ref.actor.optim.lr_scheduler_type=cosine
  actor_rollout_ref.actor.optim.lr_warmup_steps=5 actor_rollout_ref.actor.optim.min_lr_ratio=0.2
  actor_rollout_ref.actor.use_kl_loss=false
  critic.ppo_mini_batch_size=$mini critic.ppo_micro_batch_size_per_gpu=$micro critic.optim.lr=1e-3
  'actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]'
  trainer.critic_warmup=5 trainer.total_training_steps="$STEPS" trainer.total_epochs=1000
  trainer.val_before_train=false trainer.test_freq=-1
  trainer.save_freq="$STEPS" trainer.default_local_dir=checkpoints
  trainer.project_name=tiny_math trainer.experiment_name=seed-"$SEED" 'trainer.logger=[console,file,tensorboard]' "$@"
)
if [ "${COMPOSE:-0}" = 1 ]; then
  exec "${command[@]}" --cfg job
fi
rm -rf checkpoints episodes tensorboard trained
TENSORBOARD_DIR="$out/tensorboard" python "$here/progress.py" --log train.log --metrics metrics.jsonl --steps "$STEPS" -- \
  "${command[@]}"
ln -s "checkpoints/global_step_$STEPS/actor/huggingface" trained
