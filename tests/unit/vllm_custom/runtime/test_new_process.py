"""A function that a new process begins without having collected garbage."""

import gc
import multiprocessing
from multiprocessing.connection import Connection

from vllm_custom.runtime.new_process import WithoutCollections


class Argument:
    """It says whether garbage was collected while it was unpickled."""

    def __init__(self, collecting: bool | None = None) -> None:
        self.collecting = collecting

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, ()


def _unpickled() -> Argument:
    return Argument(gc.isenabled())


def tell(argument: Argument, connection: Connection) -> None:
    connection.send((argument.collecting, gc.isenabled()))


def test_nothing_is_collected_before_it_begins() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=WithoutCollections(tell), args=(Argument(), theirs))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == (False, True)
    process.join()


def test_a_fork_without_collections_has_them_again() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=WithoutCollections(tell), args=(Argument(), theirs))
    gc.disable()
    try:
        process.start()
    finally:
        gc.enable()
    assert ours.poll(60)
    assert ours.recv()[1]
    process.join()
