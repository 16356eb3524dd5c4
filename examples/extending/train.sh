# Sourced by gsm8k.sh and code.sh: verl's training command for the data in $OUT.
#   MODEL   a model's name or folder: trains it on GPUS (8) GPUs. Not set: a tiny model, made here, on the CPU.
# Arguments are passed to verl. The tiny model shows that the pipeline runs; it is too small to learn these tasks.

train() { # train TASK OPENING VERL_ARGUMENTS...
  local task=$1 opening=$2
  shift 2
  local sizes
  if [[ -n ${MODEL:-} ]]; then
    sizes=(
      data.train_batch_size=256 data.max_prompt_length=1024 data.max_response_length=3000
      actor_rollout_ref.actor.ppo_mini_batch_size=64 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4
      actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
      actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8 actor_rollout_ref.rollout.tensor_model_parallel_size=1
      critic.ppo_mini_batch_size=64 critic.ppo_micro_batch_size_per_gpu=4
      actor_rollout_ref.actor.optim.lr=5e-7 critic.optim.lr=1e-5 trainer.n_gpus_per_node="${GPUS:-8}"
      trainer.total_epochs=10
    )
  else
    MODEL=$OUT/model
    python examples/extending/tiny_model.py --task "$task" --data "$OUT/train.parquet" --out "$MODEL" \
      --opening "$opening"
    sizes=(
      +platform=cpu data.train_batch_size=8 data.max_prompt_length=192 data.max_response_length=384
      multiattempt.max_tokens_per_attempt=48
      actor_rollout_ref.actor.ppo_mini_batch_size=8 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8
      actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
      actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8
      critic.ppo_mini_batch_size=8 critic.ppo_micro_batch_size_per_gpu=8
      actor_rollout_ref.actor.optim.lr=4e-4 critic.optim.lr=1e-3
      trainer.total_training_steps=3 trainer.total_epochs=100 trainer.save_freq=-1
      trainer.val_before_train=false trainer.test_freq=-1
    )
  fi
  python -m verl.trainer.main_ppo +recipe=multiattempt \
    data.train_files="$OUT/train.parquet" data.val_files="$OUT/val.parquet" \
    actor_rollout_ref.model.path="$MODEL" critic.model.path="$MODEL" \
    multiattempt.opening.text="'$opening'" multiattempt.verifier.name=compute_score \
    trainer.project_name=extending trainer.experiment_name="$task" trainer.default_local_dir="$OUT/checkpoints" \
    "${sizes[@]}" "$@"
}
