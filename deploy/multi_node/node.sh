#!/usr/bin/env bash
# A further node of an engine that vLLM itself connects (nnodes, or data_parallel_size_local, in model.json). The first
# node is tritonserver's, and needs no script.
#
#   FIRST=10.0.0.1 RANK=1 ./node.sh /models/big/1
#
# FIRST   address of the first node (default: as model.json says)
# RANK    of this node: 1, 2, ...
# PYTHON  with vLLM (default: python3)
# BACKEND folder of the backend vllm_custom (default: as in the images)
#
# It starts again with each load of the model. VLLM_HOST_IP is this node's address, where it has several.
set -u

python=${PYTHON:-python3}
export PYTHONPATH=${BACKEND:-/opt/tritonserver/backends/vllm_custom}
trap 'kill "$child"; wait "$child"; exit' TERM INT

while true; do
    "$python" -m vllm_custom.node "$1" --rank "${RANK:?}" ${FIRST:+--address "$FIRST"} &
    child=$!
    wait "$child"
    [ $? -eq 2 ] && exit 2 # model.json or a setting is wrong
    sleep 2
done
