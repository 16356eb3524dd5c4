#!/usr/bin/env bash
# Single-attempt PPO, the baseline of arXiv 2503.04808: all as in qwen2.5_math_1.5b_multi.sh, but for max_attempts=1.
#
#   STAGES=prepare bash recipes/qwen2.5_math_1.5b_single.sh   makes the data, from the hub
#   DRY_RUN=1 bash recipes/qwen2.5_math_1.5b_single.sh        checks and estimates, starts nothing, needs no GPU
#   bash recipes/qwen2.5_math_1.5b_single.sh                  trains and evaluates; settings: paper.sh
#
# hardware   one node, 8 GPUs of 80 GB
# memory     estimate: 22 GiB a GPU in the update, 44 in the rollout; 6 GiB of host memory a node;
#            40 GiB of disk a checkpoint, of which each start keeps 2
# time       estimate: trainer at most 160 s a step, 57 hours for 1,280 steps on A100s; generation on top.
#            The paper's code took about 4 days on 8 A100s, says its README; this one has not been measured
#            (formulae: verl_multiattempt/adapters/estimate.py; 8,888 questions, 35 % of 312 TFLOP/s)
# expected   the paper's figures, not ours: mean accuracy of AIME 2024, AMC 2023, MATH 500, Minerva, OlympiadBench,
#            with k attempts allowed, k = 1..7:   42.4  43.2  44.3  44.0  43.8  44.6  42.9
# evaluation asks for 8,000 tokens in a context of 4,096: recipes/README.md
# status     not yet run by us on GPUs; two steps of a tiny model on the CPU in our tests (tests/e2e/test_recipes.py)
set -euo pipefail
cd "$(dirname "$0")/.."
RECIPE=qwen2.5_math_1.5b_single
MODEL=${MODEL:-Qwen/Qwen2.5-Math-1.5B}
max_attempts=1 prompts=1024 rollouts=1 update=128 passes=160
. recipes/paper.sh
own=("${critic[@]}")
run "$@"; exit # in one line: bash reads a script as it goes, and this one may be edited during a run of days
