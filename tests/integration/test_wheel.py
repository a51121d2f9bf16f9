"""The hospital wheel; the same measurement makes the row chain.8."""

from tests.benchmarks import wheel


def test_the_hospital_wheel_is_client_and_shared_and_reproducible() -> None:
    row = wheel.main()
    assert row["value"] == 1, row["note"]
