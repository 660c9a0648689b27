#!/usr/bin/env bash
# tools/test.py in several processes, a GPU each (nccl) or, on a machine without any, through gloo; docs/distributed.md.
exec python "$(dirname "$0")/launch.py" test "$@"
