#!/usr/bin/env bash
# Multi-attempt PPO with Qwen2.5-Math-7B, by the settings that arXiv 2503.04808 has for 1.5B; the paper has no 7B.
#
#   STAGES=prepare bash recipes/qwen2.5_math_7b_multi.sh   makes the data, from the hub
#   DRY_RUN=1 bash recipes/qwen2.5_math_7b_multi.sh        checks and estimates, starts nothing, needs no GPU
#   bash recipes/qwen2.5_math_7b_multi.sh                  trains and evaluates; settings: paper.sh
#
# hardware   one node, 8 GPUs of 80 GB; two nodes halve the trainer's time (NNODES=2, README.md)
# memory     estimate: 36 GiB a GPU in the update, 48 in the rollout; 193 GiB of host memory a node;
#            193 GiB of disk a checkpoint, of which each start keeps 2
# time       estimate: trainer at most 765 s a step, 272 hours for 1,280 steps on A100s; generation on top. Not measured
#            (formulae: verl_multiattempt/adapters/estimate.py; 8,888 questions, 35 % of 312 TFLOP/s)
# expected   no published figures
# evaluation asks for 8,000 tokens in a context of 4,096: recipes/README.md
# status     not yet run by us on GPUs; two steps of a tiny model on the CPU in our tests (tests/e2e/test_recipes.py)
set -euo pipefail
cd "$(dirname "$0")/.."
RECIPE=qwen2.5_math_7b_multi
MODEL=${MODEL:-Qwen/Qwen2.5-Math-7B}
max_attempts=5 prompts=1024 rollouts=1 update=128 passes=160
. recipes/paper.sh
own=(
  "${critic[@]}"
  # In host memory when it is not its turn: the engine gets 0.6 of the GPU, and the update a margin.
  actor_rollout_ref.actor.fsdp_config.param_offload=true actor_rollout_ref.actor.fsdp_config.optimizer_offload=true
  critic.fsdp.param_offload=true critic.fsdp.optimizer_offload=true
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6
)
run "$@"; exit # in one line: bash reads a script as it goes, and this one may be edited during a run of days
