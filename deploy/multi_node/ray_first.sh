#!/usr/bin/env bash
# The first node of engines that Ray connects ("distributed_executor_backend": "ray" in model.json): Ray's head, and what
# starts tritonserver. Ray ends when that has ended.
#
#   ADDRESS=10.0.0.1 ./ray_first.sh python3 build.py serve --model-repository /models
#
# ADDRESS of this node, which the others reach; PORT of Ray (default: 6379); RAY_OPTIONS further ones of `ray start`.
#
# Ray lets who reaches its ports run programs on all nodes: keep them in a network of their own, or set RAY_AUTH_MODE=token
# and a token on each node. Its workers take the ports 10002 to 19999.
set -u

port=${PORT:-6379}
export VLLM_HOST_IP=${ADDRESS:?} RAY_ADDRESS=$ADDRESS:$port
# shellcheck disable=SC2086 # options are words
ray start --head --node-ip-address="$ADDRESS" --port="$port" --include-dashboard=false --disable-usage-stats --block \
    ${RAY_OPTIONS:-} &
ray=$!
until ray status >/dev/null 2>&1; do
    kill -0 "$ray" 2>/dev/null || exit 1
    sleep 1
done

"$@" &
server=$!
trap 'kill "$server" 2>/dev/null' TERM INT
while kill -0 "$server" 2>/dev/null; do # a signal ends a wait
    wait "$server"
    status=$?
done
kill "$ray" 2>/dev/null
wait "$ray"
exit "$status"
