# Sourced by the qwen2.5_math_*.sh scripts, which differ in what they set before it: the settings of
#   Learning from Failures in Multi-Attempt Reinforcement Learning (arXiv 2503.04808; code: DualityRL/multi-attempt,
#   commit 32d8641, which is based on OpenRLHF; "published" below is its training script and the paper)
# as verl 0.9.1 takes them, each with what differs. Set by the script that sources this file:
#   RECIPE        name of the run            max_attempts  5, or 1 for the single-attempt arm
#   prompts       questions of a step        rollouts      of a question
#   update        questions of an update     passes        over the training data
#   own           array: what only this script sets
#
# Settings, as environment variables:
#   MODEL         name on the hub or folder                     OUT     folder for everything (outputs/$RECIPE);
#                 on a cluster OUT is on a file system that all nodes share
#   TRAIN, VAL    parquet files in verl's format, several separated by commas (made in OUT/data by the stage prepare)
#   GPUS          per node (8)                                  NNODES  nodes (1); above 1 on a Ray cluster: README.md
#   STAGES        "prepare train evaluate", or some of them     SEED    (42, the published one)
#   CHECKPOINT    what the stage evaluate takes (the last checkpoint in OUT)
#   EVAL_TOKENS   tokens of a conversation in it (8000)         EVAL_CONTEXT  the engine's context in it (4096)
#   EVAL_LIMIT    only so many questions of each benchmark in it (all)
#   DRY_RUN=1     checks everything, estimates memory, tokens and time, and starts nothing
#   GPU_GIB, GPU_TFLOPS  of a GPU, for that estimate (80, 312: an A100)
# Further arguments are passed to verl, and override what is set here.

OUT=$(realpath -ms "${OUT:-outputs/$RECIPE}")
GPUS=${GPUS:-8} NNODES=${NNODES:-1} SEED=${SEED:-42} STAGES=${STAGES:-prepare train evaluate} DRY_RUN=${DRY_RUN:-0}
EVAL_TOKENS=${EVAL_TOKENS:-8000} EVAL_CONTEXT=${EVAL_CONTEXT:-4096}
benchmarks=(aime24 amc23 math500 minerva olympiadbench)
made_train=$OUT/data/math_train.parquet
made_val=$(printf ",$OUT/data/%s.parquet" "${benchmarks[@]}")
TRAIN=${TRAIN:-$made_train} VAL=${VAL:-${made_val:1}}

# The published prompt asks for reasoning, the box, and full reasoning steps in each attempt; the last is in our words.
opening='Please reason step by step, and put your final answer within \boxed{{}}. You have {max_attempts} attempt{s} to answer the question. Give your full reasoning in each attempt.'
feedback='Your answer is incorrect. You have {attempts_left} attempt{s} left. Try an alternative.'

task=(
  multiattempt.min_attempts=1
  multiattempt.max_attempts="$max_attempts"     # drawn uniformly from 1..5 (the single arm: 1)
  multiattempt.distribution=uniform
  multiattempt.seed="$SEED"
  # Published: the text is looked at every 64 tokens, and an attempt with an answer ends there, with what was sampled
  # behind it. Here it ends at the token that completes the box, and what was sampled behind it is dropped.
  multiattempt.stop_at_answer=true
  multiattempt.stop_at_answer_every=64
  multiattempt.opening.text="'$opening'"
  multiattempt.feedback.text="'$feedback'"
  multiattempt.reward.correct=1 multiattempt.reward.answered=-0.5 multiattempt.reward.unanswered=-1
  multiattempt.reward.attempt_discount=1
  multiattempt.val_max_attempts=1               # evaluation during training allows 1 attempt, in both arms
  multiattempt.record.enabled=true              # 64 episodes a step to look at: multiattempt view OUT
  multiattempt.record.dir="$OUT/episodes"
)
data=(
  data.train_files="[$TRAIN]" data.val_files="[$VAL]"
  # verl counts questions, not episodes: times rollout.n. Published: rollout batch 1024, one sample per prompt.
  data.train_batch_size="$prompts"
  data.max_prompt_length=1024
  data.max_response_length=3000                 # the whole conversation: all attempts and the feedback between them
  data.shuffle=true data.seed="$SEED"
)
policy=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.model.use_remove_padding=true
  actor_rollout_ref.model.enable_gradient_checkpointing=true
  actor_rollout_ref.actor.strategy=fsdp2        # published: DeepSpeed ZeRO-3
  # bf16 as published means fp32 parameters and moments, bf16 arithmetic: verl's default, model_dtype is the former.
  actor_rollout_ref.actor.fsdp_config.model_dtype=fp32
  # Questions of one update, times rollout.n: 128 episodes. 8 updates a step, each episode once.
  actor_rollout_ref.actor.ppo_mini_batch_size="$update"
  actor_rollout_ref.actor.ppo_epochs=1
  actor_rollout_ref.actor.shuffle=true          # verl's default keeps the order of the balanced batch
  # Micro-batches are packed to this many tokens, without changing the gradient; published: 8 episodes of any length.
  actor_rollout_ref.actor.use_dynamic_bsz=true
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
  actor_rollout_ref.actor.clip_ratio=0.2
  actor_rollout_ref.actor.clip_ratio_low=0.2    # verl's loss reads these two
  actor_rollout_ref.actor.clip_ratio_high=0.2
  actor_rollout_ref.actor.clip_ratio_c=1e9      # verl's dual clip, which is not published, off: ratios end at e^20
  actor_rollout_ref.actor.loss_agg_mode=token-mean  # of an update's tokens; published: the mean of micro-batches' means
  actor_rollout_ref.actor.entropy_coeff=0
  actor_rollout_ref.actor.use_kl_loss=true      # in the loss, not in the reward
  actor_rollout_ref.actor.kl_loss_coef=0.01
  actor_rollout_ref.actor.kl_loss_type=low_var_kl  # k3; verl cuts it at 10 a token
  algorithm.use_kl_in_reward=false
  actor_rollout_ref.actor.optim.clip_grad=1.0   # actor.grad_clip is not read
  actor_rollout_ref.actor.optim.lr=5e-7
  # Published: cosine to a tenth after a warm-up of 3 %. verl steps the schedule once per step, not per update, and
  # would begin with a step at rate 0.
  actor_rollout_ref.actor.optim.lr_scheduler_type=cosine
  actor_rollout_ref.actor.optim.min_lr_ratio=0.1
  actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.03
  actor_rollout_ref.actor.optim.zero_indexed_step=false
  actor_rollout_ref.actor.optim.weight_decay=0
  actor_rollout_ref.actor.optim.betas='[0.9,0.95]'
  actor_rollout_ref.actor.data_loader_seed="$SEED"
  actor_rollout_ref.actor.checkpoint.save_contents='[model,optimizer,extra,hf_model]'  # hf_model: for evaluate
)
# For PPO; with GRPO there is no critic.
critic=(
  algorithm.adv_estimator=gae
  algorithm.gamma=1.0 algorithm.lam=0.99        # advantages are whitened over the step's tokens, as published
  critic.strategy=fsdp2
  critic.model.path="$MODEL"
  critic.model.use_remove_padding=true critic.model.enable_gradient_checkpointing=true
  critic.fsdp.model_dtype=fp32
  critic.ppo_mini_batch_size="$update" critic.ppo_epochs=1
  # Not critic.ppo_micro_batch_size_per_gpu nor .ppo_max_token_len_per_gpu: verl 0.9.1's trainer reads neither, always
  # packs the critic's micro-batches, and to this many tokens (not in its YAML; 32768 where absent).
  +critic.ppo_infer_max_token_len_per_gpu=16384
  critic.cliprange_value=0.2                    # OpenRLHF's default; verl's is 0.5
  critic.optim.lr=1e-5
  critic.optim.lr_scheduler_type=cosine critic.optim.min_lr_ratio=0.1 critic.optim.lr_warmup_steps_ratio=0.03
  critic.optim.zero_indexed_step=false
  critic.optim.weight_decay=0 critic.optim.betas='[0.9,0.95]' critic.optim.clip_grad=1.0
  critic.data_loader_seed="$SEED"
)
rollout=(
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n="$rollouts"
  actor_rollout_ref.rollout.temperature=1.0 actor_rollout_ref.rollout.top_p=1.0 actor_rollout_ref.rollout.top_k=-1
  actor_rollout_ref.rollout.tensor_model_parallel_size=1  # an engine per GPU
  actor_rollout_ref.rollout.gpu_memory_utilization=0.5    # of the whole GPU; its memory is given back for the update
  actor_rollout_ref.rollout.max_model_len=4096  # the model's context; prompt and conversation need 4,024
  actor_rollout_ref.rollout.seed="$SEED"
  # Greedy, once, within data.max_response_length, as published (8,000 tokens: only after training).
  actor_rollout_ref.rollout.val_kwargs.temperature=0 actor_rollout_ref.rollout.val_kwargs.top_p=1.0
  actor_rollout_ref.rollout.val_kwargs.do_sample=false actor_rollout_ref.rollout.val_kwargs.n=1
)
trainer=(
  trainer.nnodes="$NNODES" trainer.n_gpus_per_node="$GPUS"
  trainer.total_epochs="$passes"                # verl drops the last, smaller batch of each pass
  trainer.val_before_train=true
  trainer.test_freq=8                           # published; 8 steps are a pass over 8,000 questions
  trainer.save_freq=16                          # published: 8, and the weights alone every 80 and where they are best
  trainer.max_actor_ckpt_to_keep=2 trainer.max_critic_ckpt_to_keep=2
  trainer.default_local_dir="$OUT/checkpoints"
  trainer.project_name=multiattempt trainer.experiment_name="$RECIPE" trainer.logger='[console,file,tensorboard]'
  # verl logs in a Ray actor, which on a running cluster does not have this shell's environment. A file for each start,
  # since verl empties the one it opens.
  +ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR="$OUT/tensorboard"
  +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$OUT/metrics-$(date -u +%Y%m%dT%H%M%SZ).jsonl"
)

say() { printf '%s: %s\n' "$RECIPE" "$*"; }

prepare() { # questions, downloaded and written in verl's format; what is there is kept
  local name
  mkdir -p "$OUT/data"
  for name in math_train "${benchmarks[@]}"; do
    [[ -e $OUT/data/$name.parquet ]] || multiattempt prepare "$name" --out "$OUT/data/$name.parquet"
  done
}

train() {
  mkdir -p "$OUT"
  python -m verl.trainer.main_ppo "${words[@]}"
}

# k = 1..7, one greedy run for each k, whose opening says k: as published. Two things to know of the published figures:
# - They are of the checkpoint that was best in the evaluation during training, on the same benchmarks; this takes the last.
# - Qwen2.5-Math was trained with 4,096 positions, and vLLM ends conversations there unless told otherwise; the
#   published code does not tell it otherwise, so its 8,000 tokens are in effect what 4,096 leave after the question.
#   EVAL_CONTEXT=9216 gives room for all 8,000, at positions that the model has never seen: another experiment.
evaluate() {
  local checkpoint=${CHECKPOINT:-}
  if [[ -z $checkpoint ]]; then
    local last
    last=$(cat "$OUT/checkpoints/latest_checkpointed_iteration.txt") ||
      { say "CHECKPOINT must name what to evaluate where $OUT has no checkpoint"; return 1; }
    checkpoint=$OUT/checkpoints/global_step_$last/actor/huggingface
  fi
  ((EVAL_CONTEXT <= 4096)) || export VLLM_ALLOW_LONG_MAX_MODEL_LEN=1
  multiattempt evaluate --model "$checkpoint" --data ${VAL//,/ } --out "$OUT/evaluation" --label "$RECIPE" \
    --protocol paper --attempts 1 2 3 4 5 6 7 --temperature 0 --max-tokens "$EVAL_TOKENS" \
    --max-model-len "$EVAL_CONTEXT" --set opening.text="$opening" --set feedback.text="$feedback" \
    --set stop_at_answer=true ${EVAL_LIMIT:+--limit "$EVAL_LIMIT"}
}

dry_run() {
  # Without an accelerator here, the command is checked as one that a driver gives to a cluster; none is asked.
  export RAY_ADDRESS=${RAY_ADDRESS:-auto}
  local status=0
  multiattempt check "${words[@]}" || status=1
  echo
  python -m verl_multiattempt.adapters.estimate --gpu-gib "${GPU_GIB:-80}" --gpu-tflops "${GPU_TFLOPS:-312}" \
    "${words[@]}" || status=1
  say "dry run: nothing was started"
  return $status
}

run() { # run FURTHER_ARGUMENTS_FOR_VERL...
  words=(+recipe=multiattempt "${task[@]}" "${data[@]}" "${policy[@]}" "${rollout[@]}" "${trainer[@]}" "${own[@]}" "$@")
  if [[ $DRY_RUN == 1 ]]; then
    dry_run
    return
  fi
  local stage
  for stage in $STAGES; do
    case $stage in
      prepare | train | evaluate) say "$stage: $OUT"; $stage ;;
      *) say "STAGES must be of prepare, train, evaluate; got '$stage'"; return 2 ;;
    esac
  done
}
