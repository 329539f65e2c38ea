"""When an endpoint of the frontend rests, is broken, and is well again."""

from vllm_custom_frontend.health import Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rests_after_failures(health: Health, clock: Clock, failures: int) -> list[float]:
    found = []
    for _ in range(failures):
        health.failed()
        found.append(health.rest_seconds)
        clock.now += health.rest_seconds
    return found


def test_rests_grow_to_a_limit_and_begin_anew_after_a_success() -> None:
    clock = Clock()
    health = Health(clock)
    assert rests_after_failures(health, clock, 7) == [1, 2, 4, 8, 16, 30, 30]
    health.succeeded()
    assert not health.resting
    assert rests_after_failures(health, clock, 2) == [1, 2]


def test_failures_at_the_same_time_are_one_rest() -> None:
    clock = Clock()
    health = Health(clock)
    for _ in range(100):
        health.failed()
    assert health.rest_seconds == 1


def test_one_bad_request_does_not_break_an_endpoint_and_three_in_a_row_do() -> None:
    health = Health(Clock())
    for _ in range(5):
        health.failed()
        health.failed()
        assert not health.broken
        health.succeeded()
    for _ in range(3):
        health.failed()
    assert health.broken


def test_a_probe_brings_back_what_has_rested_and_keeps_the_length_of_its_rests() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed(hung=True)
    health.probed()
    assert (health.broken, health.hung) == (True, True)
    clock.now += 1
    health.probed()
    assert (health.broken, health.hung) == (False, False)
    health.failed(broken=True)
    assert health.rest_seconds == 2


def test_a_busy_endpoint_rests_and_is_not_broken() -> None:
    health = Health(Clock())
    for _ in range(10):
        health.busy()
    assert (health.resting, health.broken) == (True, False)


def test_an_endpoint_without_connection_is_back_with_the_next_probe() -> None:
    health = Health(Clock())
    health.lost()
    assert health.broken
    health.probed()
    assert not health.broken
