#!/usr/bin/env bash
# A further node of engines that Ray connects. It has the same Python, vLLM and files as the first one, in the same places.
#
#   FIRST=10.0.0.1 ADDRESS=10.0.0.2 ./ray_node.sh
#
# FIRST address of the first node; ADDRESS of this one; PORT of Ray (default: 6379); RAY_OPTIONS further ones of `ray start`.
set -eu

export VLLM_HOST_IP=${ADDRESS:?}
# shellcheck disable=SC2086
exec ray start --address="${FIRST:?}:${PORT:-6379}" --node-ip-address="$ADDRESS" --disable-usage-stats --block ${RAY_OPTIONS:-}
