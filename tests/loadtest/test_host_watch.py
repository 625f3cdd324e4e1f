from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorry_loadtest.host_watch import HostWatch


def write(
    folder: Path, *, steal: int, busy: int, stalled_us: int, uptime: float, mhz: float
) -> None:
    (folder / "pressure").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"cpu  {busy} 0 0 0 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")
    (folder / "pressure" / "cpu").write_text(f"some avg10=0.00 total={stalled_us}\nfull total=0\n")
    (folder / "uptime").write_text(f"{uptime} 10.0\n")
    (folder / "cpuinfo").write_text(f"processor : 0\ncpu MHz\t\t: {mhz}\n")


def test_what_others_took_is_told_in_shares_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, steal=0, busy=100, stalled_us=0, uptime=10.0, mhz=3000.0)
    watch = HostWatch("example.org", proc=tmp_path, sys_cpu=tmp_path)
    write(tmp_path, steal=10, busy=190, stalled_us=5_000_000, uptime=20.0, mhz=2400.0)

    facts = watch.stop()

    assert facts.steal_share == pytest.approx(0.1)
    assert facts.pressure_share == pytest.approx(0.5)
    assert facts.frequency_drop == pytest.approx(0.2)
    assert facts.governor is None
    assert facts.shares_cores is False


def test_a_server_on_the_same_machine_may_share_its_cores_unless_the_client_was_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shares_cores() -> bool | None:
        return HostWatch("127.0.0.1", proc=tmp_path, sys_cpu=tmp_path).stop().shares_cores

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert shares_cores() is True
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert shares_cores() is None


def test_processors_that_rest_at_the_end_have_not_lost_their_speed(tmp_path: Path) -> None:
    write(tmp_path, steal=0, busy=100, stalled_us=0, uptime=10.0, mhz=3000.0)
    watch = HostWatch("example.org", proc=tmp_path, sys_cpu=tmp_path)
    idle = "processor : 1\ncpu MHz\t\t: 800.0\n"
    (tmp_path / "cpuinfo").write_text(f"processor : 0\ncpu MHz\t\t: 2970.0\n{idle * 3}")

    drop = watch.stop().frequency_drop

    assert drop == pytest.approx(0.01)


def test_a_system_that_tells_nothing_is_not_taken_for_a_quiet_one(tmp_path: Path) -> None:
    facts = HostWatch("example.org", proc=tmp_path, sys_cpu=tmp_path).stop()

    assert facts.steal_share is None
    assert facts.pressure_share is None
    assert facts.frequency_drop is None


def test_the_governor_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "cpu0" / "cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("powersave\n")

    assert HostWatch("h", proc=tmp_path, sys_cpu=tmp_path).stop().governor == "powersave"
