#!/usr/bin/env bash
# MMDetection's tools/slurm_train.sh with all its options, started from wherever mmdet is installed.
set -euo pipefail
stock=$(python -c 'from apa_mmdet.apis.mmdet_tools import stock_tool; print(stock_tool("slurm_train.sh"))')
exec bash "$stock" "$@"
