"""How many cores a process may use, and how much memory it has used."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from bitvit.system import available_threads, cgroup_quota, peak_rss
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "BITVIT_NUM_THREADS"])
def test_environment_limits_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("BITVIT_NUM_THREADS", raising=False)
    free = available_threads()
    monkeypatch.setenv(name, "1")
    assert available_threads() == 1
    for ignored in ("0", "many", "", "-3"):
        monkeypatch.setenv(name, ignored)
        assert available_threads() == free
    monkeypatch.setenv(name, str(free + 5))
    assert available_threads() == free


# ------------------------------------------------------------------------------------------------- control groups
Folders = Mapping[str, Mapping[str, str]]

V2 = "{mount} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "{mount} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"


def process(place: Path, group: str, mounts: Iterable[str], folders: Folders) -> Path:
    """The folder in /proc of a process in a made-up tree; mount points and the folders' names are below `place`."""
    own = place / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(group)
    lines = ["22 1 0:21 / / rw - ext4 /dev/root rw", *(f"33 31 0:29 {mount}" for mount in mounts)]
    (own / "mountinfo").write_text("\n".join(lines).replace(" /sys", f" {place}/sys") + "\n")
    for name, files in folders.items():
        folder = place / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    return own


def v1(quota_us: int) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota_us}\n", "cpu.cfs_period_us": "100000\n"}


def v2(text: str) -> dict[str, str]:
    return {"cpu.max": f"{text}\n"}


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_the_quota_of_a_container(text: str, quota: float | None, tmp_path: Path) -> None:
    """Whose own group is the root of what it sees."""
    own = process(tmp_path, "0::/\n", [V2.format(mount="/")], {"sys/fs/cgroup": v2(text)})
    assert cgroup_quota(own) == quota


@pytest.mark.parametrize(("quota_us", "quota"), [(250000, 2.5), (-1, None)])
def test_the_quota_of_a_container_of_version_1(quota_us: int, quota: float | None, tmp_path: Path) -> None:
    """It is told its group as the host names it, and the mount begins there."""
    group = "12:memory:/docker/0a\n4:cpu,cpuacct:/docker/0a\n0::/\n"
    folders = {"sys/fs/cgroup/cpu,cpuacct": v1(quota_us)}
    assert cgroup_quota(process(tmp_path, group, [V1.format(mount="/docker/0a")], folders)) == quota


@pytest.mark.parametrize(
    "where", ["system.slice", "system.slice/our service.service", "system.slice/our service.service/a"]
)
def test_the_quota_of_a_nested_group(where: str, tmp_path: Path) -> None:
    """systemd's CPUQuota=, set for the unit, the slice around it or a group in it."""
    unit = "sys/fs/cgroup/system.slice/our service.service"
    folders = {"sys/fs/cgroup": {}, unit: v2("max 100000"), f"sys/fs/cgroup/{where}": v2("50000 100000")}
    own = process(tmp_path, "0::/system.slice/our service.service/a\n", [V2.format(mount="/")], folders)
    assert cgroup_quota(own) == 0.5


def test_the_smallest_quota_of_all_groups_around_counts(tmp_path: Path) -> None:
    quotas = {"a": "300000 100000", "a/b": "50000 20000", "a/b/c": "800000 100000", "a/other": "1000 100000"}
    folders = {f"sys/fs/cgroup/{name}": v2(text) for name, text in quotas.items()}
    assert cgroup_quota(process(tmp_path, "0::/a/b/c\n", [V2.format(mount="/")], folders)) == 2.5


def test_a_nested_group_of_version_1_beside_version_2(tmp_path: Path) -> None:
    """A hybrid layout: version 2 is mounted too, without the controller of CPUs."""
    mounts = [V1.format(mount="/"), "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"]
    folders = {
        "sys/fs/cgroup/cpu,cpuacct/": v1(-1),
        "sys/fs/cgroup/cpu,cpuacct/user.slice": v1(150000),
        "sys/fs/cgroup/cpu,cpuacct/user.slice/session": v1(-1),
        "sys/fs/cgroup/unified/user.slice": {"cgroup.procs": ""},
    }
    group = "9:name=systemd:/user.slice\n1:cpuacct,cpu:/user.slice/session\n0::/user.slice\n"
    assert cgroup_quota(process(tmp_path, group, mounts, folders)) == 1.5


@pytest.mark.parametrize("group", ["/elsewhere", "/../sibling", "/pod/ab"])
def test_a_group_that_the_mount_does_not_show(group: str, tmp_path: Path) -> None:
    """What can be seen counts, and no folder outside it."""
    folders = {"sys/fs/cgroup": v2("200000 100000"), "sys/fs/sibling": v2("1000 100000")}
    assert cgroup_quota(process(tmp_path, f"0::{group}\n", [V2.format(mount="/pod/a")], folders)) == 2


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mount = "/ /sys/control\\040groups rw - cgroup2 none rw"
    assert cgroup_quota(process(tmp_path, "0::/a\n", [mount], {"sys/control groups/a": v2("300000 100000")})) == 3


@pytest.mark.parametrize("missing", ["cgroup", "mountinfo"])
def test_no_quota_is_known_where_the_system_does_not_tell(missing: str, tmp_path: Path) -> None:
    own = process(tmp_path, "0::/\n", [V2.format(mount="/")], {"sys/fs/cgroup": v2("200000 100000")})
    assert cgroup_quota(own) == 2
    (own / missing).unlink()
    assert cgroup_quota(own) is None


def mounted_cpu_groups() -> Path:
    """The root of the groups of the controller of CPUs; skips if there is none that may be changed."""
    for mount in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = mount.partition(" - cgroup")
        place = Path(fields.split(" ")[4])
        version_2 = (place / "cgroup.controllers").exists()
        controllers = (
            (place / "cgroup.controllers").read_text().split() if version_2 else kind.split(" ")[-1].split(",")
        )
        if kind and "cpu" in controllers and os.access(place, os.W_OK):
            return place
    pytest.skip("no control groups of CPUs that this user may change")


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
def test_the_quota_of_a_real_nested_group() -> None:
    """A process that is put into a group inside one with a quota sees it."""
    outer = mounted_cpu_groups() / f"bitvit-test-{os.getpid()}"
    inner = outer / "inner"
    outer.mkdir()
    try:
        try:
            if (outer / "cpu.cfs_quota_us").exists():
                (outer / "cpu.cfs_quota_us").write_text("50000")
            else:
                (outer / "cpu.max").write_text("50000 100000")
        except OSError:
            pytest.skip("the controller of CPUs is not passed on to new groups")
        inner.mkdir()
        script = (
            f"import os; open({str(inner / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from bitvit.system import *; print(cgroup_quota(), available_threads())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout == "0.5 1\n"
    finally:
        if inner.exists():
            inner.rmdir()
        outer.rmdir()


# --------------------------------------------------------------------------------------------------------- memory
def test_the_peak_of_memory_is_that_of_this_process() -> None:
    before = peak_rss()
    if before is None:
        pytest.skip("this system does not tell")
    assert 1 << 24 < before < 1 << 40  # an interpreter with NumPy has 30 MB
    held = bytearray(before)
    assert (peak_rss() or 0) >= before + len(held) // 2
