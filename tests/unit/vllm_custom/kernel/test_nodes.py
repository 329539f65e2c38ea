"""Engines over several nodes, as model.json describes them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from vllm_custom.errors import ConfigError
from vllm_custom.kernel import nodes
from vllm_custom.kernel.nodes import Nodes

TWO_NODES = {"nnodes": 2, "master_addr": "head", "tensor_parallel_size": 16}
DATA = {"data_parallel_size": 5, "data_parallel_size_local": 2, "data_parallel_address": "head"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, None),
        ({"nnodes": 1, "tensor_parallel_size": 2}, None),
        ({"data_parallel_size": 2}, None),
        ({"data_parallel_size": 2, "data_parallel_size_local": 2}, None),
        ({"data_parallel_size": 2, "data_parallel_size_local": 1, "data_parallel_backend": "ray"}, None),
        ({"data_parallel_size": 2, "data_parallel_size_local": 1, "data_parallel_rank": 0}, None),
        ({"data_parallel_size": 2, "data_parallel_size_local": 1, "data_parallel_hybrid_lb": True}, None),
        (TWO_NODES, Nodes(2, "nnodes", "head", 29501)),
        ({**TWO_NODES, "nnodes": "2", "master_port": 5}, Nodes(2, "nnodes", "head", 5)),
        (DATA, Nodes(3, "data_parallel_size_local", "head", 29550)),
        ({**DATA, "data_parallel_rpc_port": 7}, Nodes(3, "data_parallel_size_local", "head", 7)),
    ],
)
def test_which_nodes_vllm_connects(arguments: dict[str, Any], expected: Nodes | None) -> None:
    assert nodes.nodes_of(arguments) == expected
    if not nodes.ray_argument(arguments):
        nodes.check(arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"nnodes": "two"}, "model.json: nnodes: expected a positive integer, got 'two'"),
        ({"nnodes": 2}, r"model.json: master_addr: expected the address .* \(nnodes 2\), got None"),
        ({**TWO_NODES, "master_addr": ""}, "master_addr: expected the address"),
        (
            {**DATA, "data_parallel_address": None},
            "data_parallel_address: expected the address .*_local 2 of .*_size 5",
        ),
        ({**TWO_NODES, "node_rank": 1}, "node_rank: expected 0, the node of tritonserver, got 1"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        nodes.check(arguments)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="not run: Ray is installed")
@pytest.mark.parametrize("key", ["distributed_executor_backend", "data_parallel_backend"])
def test_ray_has_to_be_installed(key: str) -> None:
    with pytest.raises(ConfigError, match=f"model.json: {key}: 'ray' needs the package ray"):
        nodes.check({key: "ray"})


def test_a_further_node_has_the_same_arguments_and_its_own_place() -> None:
    arguments, found = nodes.further(TWO_NODES, 1)
    assert (arguments, found.host) == ({**TWO_NODES, "node_rank": 1}, "head")
    arguments, found = nodes.further(TWO_NODES, 1, "10.0.0.5")
    assert (arguments["master_addr"], found.host) == ("10.0.0.5", "10.0.0.5")


@pytest.mark.parametrize(("rank", "start", "local"), [(1, 2, 2), (2, 4, 1)])
def test_data_parallel_engines_are_dealt_out_in_order(rank: int, start: int, local: int) -> None:
    arguments, _ = nodes.further(DATA, rank)
    assert (arguments["data_parallel_start_rank"], arguments["data_parallel_size_local"]) == (start, local)
    arguments, _ = nodes.further({**DATA, "data_parallel_address": None}, rank, "h")
    assert arguments["data_parallel_address"] == "h"


@pytest.mark.parametrize(
    ("arguments", "rank", "words"),
    [
        ({}, 1, "nnodes: expected at least 2, .* this engine is on one node"),
        ({"distributed_executor_backend": "ray"}, 1, "this engine is on the nodes of Ray"),
        (TWO_NODES, 0, r"--rank: expected 1 to 1 for an engine on 2 nodes \(nnodes in model.json\), got 0"),
        (TWO_NODES, 2, "--rank: expected 1 to 1"),
        (DATA, 3, "--rank: expected 1 to 2"),
    ],
)
def test_a_node_that_has_no_place_is_refused(arguments: dict[str, Any], rank: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        nodes.further(arguments, rank)


def test_a_start_that_fails_says_that_other_nodes_have_a_part_of_it() -> None:
    said: list[str] = []
    words = r"no luck; it is an engine on 2 nodes .*distributed_timeout_seconds"
    with pytest.raises(ConfigError, match=words), nodes.waited_for(TWO_NODES, said.append):
        raise RuntimeError("no luck")
    assert said == ["an engine on 2 nodes (nnodes in model.json) starts, and waits for the other nodes at head:29501"]


def test_a_start_on_one_node_fails_as_it_does() -> None:
    with pytest.raises(RuntimeError, match=r"^no luck$"), nodes.waited_for({}, pytest.fail):
        raise RuntimeError("no luck")
