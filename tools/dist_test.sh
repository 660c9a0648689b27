#!/usr/bin/env bash
# MMDetection's tools/dist_test.sh with all its options, started from wherever mmdet is installed.
set -euo pipefail
stock=$(python -c 'from apa_mmdet.engine.stock_tools import stock_tool; print(stock_tool("dist_test.sh"))')
exec bash "$stock" "$@"
