#!/usr/bin/env bash
# Trains on a Slurm cluster; variables and arguments are those of MMDetection's script.
set -euo pipefail
usage='usage: [GPUS=8] [GPUS_PER_NODE=8] tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]'
partition=${1:?$usage} job=${2:?$usage} config=${3:?$usage} work_dir=${4:?$usage}
gpus_per_node=${GPUS_PER_NODE:-8}
# shellcheck disable=SC2086  # SRUN_ARGS holds several options
exec srun -p "$partition" --job-name="$job" --gres=gpu:"$gpus_per_node" --ntasks="${GPUS:-8}" \
  --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  python -u "$(dirname "$0")/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "${@:5}"
