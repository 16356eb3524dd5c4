#!/usr/bin/env bash
# Multi-attempt GRPO, which the paper does not have: 8 rollouts of each question instead of a critic, all of them with
# the same allowance (scope group), since their rewards are compared. Else as qwen2.5_math_1.5b_multi.sh.
#
#   STAGES=prepare bash recipes/qwen2.5_math_1.5b_multi_grpo.sh   makes the data, from the hub
#   DRY_RUN=1 bash recipes/qwen2.5_math_1.5b_multi_grpo.sh        checks and estimates, starts nothing, needs no GPU
#   bash recipes/qwen2.5_math_1.5b_multi_grpo.sh                  trains and evaluates; settings: paper.sh
#
# hardware   one node, 8 GPUs of 80 GB
# memory     estimate: 20 GiB a GPU in the update, 42 in the rollout; 6 GiB of host memory a node;
#            23 GiB of disk a checkpoint, of which each start keeps 2
# time       estimate: trainer at most 87 s a step, 33 hours for 1,380 steps on A100s; generation on top. Not measured
#            (formulae: verl_multiattempt/adapters/estimate.py; 8,888 questions, 35 % of 312 TFLOP/s)
# expected   no published figures
# evaluation asks for 8,000 tokens in a context of 4,096: recipes/README.md
# status     not yet run by us on GPUs; two steps of a tiny model on the CPU in our tests (tests/e2e/test_recipes.py)
set -euo pipefail
cd "$(dirname "$0")/.."
RECIPE=qwen2.5_math_1.5b_multi_grpo
MODEL=${MODEL:-Qwen/Qwen2.5-Math-1.5B}
# 1,024 episodes a step and 128 an update, as with PPO, and in 20 passes about as many episodes as PPO has in 160.
max_attempts=5 prompts=128 rollouts=8 update=16 passes=20
. recipes/paper.sh
own=(
  algorithm.adv_estimator=grpo
  algorithm.norm_adv_by_std_in_grpo=true
  critic.enable=false
  multiattempt.scope=group
)
run "$@"; exit # in one line: bash reads a script as it goes, and this one may be edited during a run of days
