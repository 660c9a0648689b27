#!/usr/bin/env bash
# Trains in several processes: one GPU each (nccl) or, on a machine without a GPU, on the CPU (gloo). One machine takes
# a free port; several need NNODES, NODE_RANK and MASTER_ADDR, and use PORT (29500). See docs/distributed.md.
set -euo pipefail
usage='usage: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]'
config=${1:?$usage} processes=${2:?$usage}
if [ "${NNODES:-1}" = 1 ]; then
  machines=(--standalone --local-addr=127.0.0.1)
else
  machines=(--nnodes="$NNODES" --node-rank="${NODE_RANK:?set it to the rank of this machine, from 0 on}"
    --master-addr="${MASTER_ADDR:?set it to the address of machine 0}" --master-port="${PORT:-29500}")
fi
exec python -m torch.distributed.run "${machines[@]}" --nproc-per-node="$processes" \
  "$(dirname "$0")/${TOOL:-train.py}" --launcher pytorch "$config" "${@:3}"
