#!/usr/bin/env bash
# Tests in several processes, which dist_train.sh starts. See docs/distributed.md.
set -euo pipefail
usage='usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]'
config=${1:?$usage} checkpoint=${2:?$usage} processes=${3:?$usage}
TOOL=test.py exec bash "$(dirname "$0")/dist_train.sh" "$config" "$processes" "$checkpoint" "${@:4}"
