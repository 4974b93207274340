"""What limits a round: busy shares, the critical path and rooflines of schedules that are followed by hand."""

import pytest
from moe_passes.plan.round import Buffer, Mode, Schedule, Task, Traffic, Work
from moe_passes.solve.rcpsp.problem import Problem

from moe_compiler.evaluate.report import busy_fractions, critical_path, knobs, mean, roofline_seconds
from tests.plans import cost, with_far_engine

NAMES = ("external", "banks", "streamline", "staging")


def task(duration, *uses, after=()):
    return Task((Mode(duration, uses),), after)


def follow(tasks, starts, kinds, buffers=()):
    """Return the nanoseconds of each kind on the critical path, in the order in which they are told."""
    problem = Problem((1, 1, 1000, 4), NAMES, tuple(tasks), buffers)
    work = tuple(Work(kind, 0, 0) for kind in kinds)
    path = critical_path(problem, work, Schedule(tuple(starts), (0,) * len(starts)))
    return [(kind, pytest.approx(seconds * 1e9)) for kind, seconds in sorted(path.items(), key=lambda i: -i[1])]


def test_busy_shares_are_time_and_amount_over_the_round():
    """Of 10: external 4 + 2, banks 5, the link 500 of 1,000 for 4 and 1,000 for 2; staging is held, not busy."""
    tasks = (
        task(4, (0, 1), (2, 500)),
        task(2, (0, 1), (2, 1000)),
        Task((Mode(1, ((0, 1),)), Mode(5, ((1, 1),))), (0,)),
    )
    problem = Problem((1, 1, 1000, 4), NAMES, tasks, (Buffer(3, 2, 0, 2),))
    busy = busy_fractions(problem, Schedule((0, 8, 4), (0, 0, 1)))
    assert busy == pytest.approx({"external": 0.6, "banks": 0.5, "streamline": 0.4})


def test_banks_count_as_one_however_they_are_grouped():
    """Of 10: the three banks of one group are in use for 4, the fourth bank for 8: 20 of 40."""
    tasks = (task(4, (0, 1)), task(8, (1, 1)), task(10, (2, 1)))
    problem = Problem((1, 1, 1), ("banks0-2", "banks3", "external"), tasks)
    busy = busy_fractions(problem, Schedule((0, 0, 0), (0, 0, 0)))
    assert busy == pytest.approx({"external": 1.0, "banks": 0.5})


def test_means_are_over_all_rounds():
    assert mean([{"load": 2.0, "expert": 1.0}, {"load": 4.0}]) == {"load": 3.0, "expert": 0.5}


def test_nothing_is_busy_in_no_time():
    assert busy_fractions(Problem((1,), ("banks",), ()), Schedule((), ())) == {}


def test_the_critical_path_follows_what_was_waited_for():
    """A load of 3 ends before the attention of 5 that the expert waits for, too: 5 + 4, and nothing of the load."""
    tasks = (task(5, (1, 1)), task(3, (0, 1)), task(4, (1, 1), after=(0, 1)))
    assert follow(tasks, (0, 0, 5), ("attention", "load", "expert")) == [("attention", 5), ("expert", 4)]


def test_the_critical_path_goes_through_a_resource_that_was_taken():
    """The second load waits for the first one's channel, the expert for the second load; kinds are added up."""
    tasks = (task(6, (0, 1)), task(3, (0, 1)), task(2, (1, 1), after=(1,)))
    assert follow(tasks, (0, 6, 9), ("load", "load", "expert")) == [("load", 9), ("expert", 2)]


def test_a_predecessor_counts_before_another_task_that_ended_at_the_same_time():
    """Both attention and load end at 4: the expert waited for the load."""
    tasks = (task(4, (1, 1)), task(4, (0, 1)), task(2, (1, 1), after=(1,)))
    assert follow(tasks, (0, 0, 4), ("attention", "load", "expert")) == [("load", 4), ("expert", 2)]


def test_time_in_which_nothing_ended_is_told_as_waiting():
    """The load starts at 7, but all that it could have waited for ended at 3 and 4: 3 of waiting."""
    tasks = (task(4, (1, 1)), task(3, (0, 1)), task(5, (0, 1), after=(1,)))
    assert follow(tasks, (0, 0, 7), ("attention", "write", "load")) == [
        ("load", 5),
        ("attention", 4),
        ("waiting", 3),
    ]


def test_all_of_a_round_is_told():
    """Whatever the path, its parts add up to the makespan."""
    tasks = (task(4, (1, 1)), task(3, (0, 1)), task(5, (0, 1), after=(1,)), task(0, after=(2,)), task(2, after=(3,)))
    told = follow(tasks, (0, 1, 7, 13, 13), ("attention", "load", "load", "gather", "head"))
    assert sum(part.expected for _, part in told) == pytest.approx(15)
    assert dict(told)["waiting"] == 4


def test_an_empty_round_has_no_path():
    assert critical_path(Problem((), (), ()), (), Schedule((), ())) == {}


def test_rooflines_by_hand():
    """elmoe3d-8gb: 101.376 GB/s outside, 32 · 49.664 GB/s inside, 262 and 524 T MAC/s, 32 GB/s over the link."""
    traffic = Traffic(
        hb_read_bytes=10**9,
        hb_write_bytes=10**8,
        external_read_bytes=2 * 10**9,
        link_bytes=10**6,
        w4a8_macs=10**12,
        w8a8_macs=3 * 10**12,
    )
    assert roofline_seconds(cost(), traffic) == pytest.approx(
        {
            "external bandwidth": 2 / 101.376,
            "hb bandwidth": 1.1 / (32 * 49.664),
            "compute": 1 / 524 + 3 / 262,
            "aggregation link": 1e-3 / 32,
        }
    )
    far = roofline_seconds(with_far_engine(cost()), Traffic(far_read_bytes=4 * 10**9, far_macs=2 * 10**10))
    assert far["far engine"] == pytest.approx(4 / 80), "80 GB/s take longer than 1 tera-MACs/s"
    assert set(knobs(with_far_engine(cost()).machine)) == set(far)


def test_limits_name_the_field_of_the_hardware_file():
    assert knobs(cost().machine) == {
        "external bandwidth": "memories.external.bandwidth_gb_s",
        "hb bandwidth": "memories.hb.bank_bandwidth_gb_s",
        "compute": "engines.elements.tops",
        "aggregation link": "links.aggregation.bandwidth_gb_s",
    }
    host = knobs(cost(name="rtx3090-host").machine)
    assert host["external bandwidth"] == "links.pcie.bandwidth_gb_s", "slower than what is behind it"
    assert host["hb bandwidth"] == "memories.vram.bandwidth_gb_s"
    assert host["compute"] == "engines.gpu.tops"
    assert host["far engine"] == "engines.cpu.bandwidth_gb_s"
