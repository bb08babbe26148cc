"""A Ray cluster trains what this process trains, to the bit, though a machine and its disk are lost mid-unit."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vnfleet.core.errors import BadDataError, BusyError, ResourceError, UsageError
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.job import AGAIN_STAGE, DONE_STAGE, EngineJob
from vnfleet.training.engines.local import run_unit
from vnfleet.training.engines.ray_cluster import Share, run_units, share_of
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import read_selection

if TYPE_CHECKING:
    from tests.training.engines.conftest import Diary, Scene

pytestmark = [
    pytest.mark.xdist_group("engines"),
    # Ray 2.60 leaves sockets and files to the garbage collector, and warns of its own future defaults
    pytest.mark.filterwarnings("ignore"),
]
STORE_BYTES = 80 * 2**20


class Machines:
    """A head without processors, where the driver is, and machines that are cut off while they work."""

    def __init__(self, cluster: Any, scratch: Path) -> None:
        self.cluster, self.scratch = cluster, scratch
        self.machines: list[Any] = []

    def have(self, number: int) -> None:
        """Add machines until there are so many."""
        while len(self.machines) < number:
            self.machines.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def cut_off_where(self, unit_id: str) -> None:
        """Kill all processes of the machine that works on a unit without a good-bye, and lose its disk."""
        folders = list((self.scratch / "vnfleet-ray").glob(f"{unit_id}-*"))
        (machine,) = (each for each in self.machines if any(each.node_id[:12] in folder.name for folder in folders))
        self.machines.remove(machine)
        self.cluster.remove_node(machine, allow_graceful=False)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    # tmp_path is too long for the names of Ray's sockets
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch,
    ):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # leaves no token in the home of whoever runs the tests
        patch.setenv("TMPDIR", scratch)
        patch.setattr(tempfile, "tempdir", None)
        cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra vnfleet[ray] is not installed")
        cluster = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 3},
            },
        )
        yield Machines(cluster, Path(scratch))
        cluster.shutdown()


def job_on(machines: Machines, scene: Scene, units_root: Path) -> EngineJob:
    config = MachineConfig(engine="ray", ray_address=machines.cluster.address, num_threads=1, device="cpu")
    return dataclasses.replace(scene.job(units_root), machine=config)


def test_a_machine_and_its_disk_are_lost_in_the_middle_and_the_weights_are_the_same(
    scene: Scene, machines: Machines, tmp_path: Path, diary: Diary
) -> None:
    machines.have(2)
    job = job_on(machines, scene, tmp_path)
    kept: list[int] = []

    def told(unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        diary(unit_id, stage, done, total, note)
        steps = [int(path.name[-8:]) for path in (job.units_root / unit_id).glob("backbone/ckpt-*")]
        if steps and not kept and done < total:
            kept.extend(steps)
            machines.cut_off_where(unit_id)

    run_units(scene.units, job, told)
    assert scene.weights(job.units_root) == scene.expected
    assert kept, "everything was over before a machine was lost"
    done = [unit_id for unit_id, stage, *_ in diary.entries if stage == DONE_STAGE]
    assert sorted(done) == sorted(unit.unit_id for unit in scene.units)
    select = scene.units[0].unit_id
    stages = diary.stages(select)
    assert stages.count(AGAIN_STAGE) == 1
    after_the_loss = [entry for entry in diary.entries if entry[0] == select][stages.index(AGAIN_STAGE) + 1 :]
    assert after_the_loss[0][1:3] > ("backbone", min(kept)), "started over instead of going on"


def test_an_error_on_a_machine_keeps_its_class_and_words(
    scene: Scene, machines: Machines, tmp_path: Path, diary: Diary
) -> None:
    machines.have(1)
    job = job_on(machines, scene, tmp_path)
    other = Recipe(job.recipe.model, dataclasses.replace(job.recipe.training, max_epochs=11))
    with pytest.raises(BadDataError, match="planned with another recipe") as caught:
        run_units(scene.units, dataclasses.replace(job, recipe=other), diary)
    assert f"expected: {scene.units[0].recipe_id}" in str(caught.value)


def test_without_any_machine_left_the_local_engine_goes_on_from_what_was_brought_home(
    scene: Scene, data: TrainingData, machines: Machines, tmp_path: Path
) -> None:
    machines.have(1)
    job = job_on(machines, scene, tmp_path)
    select = scene.units[0]

    def told(unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        del note
        if machines.machines and done < total and list((tmp_path / unit_id).glob(f"{stage}/ckpt-*")):
            while machines.machines:
                machines.cut_off_where(unit_id)

    with pytest.raises(ResourceError, match="no machine of the Ray cluster is left"):
        run_units(scene.units, job, told, patience_seconds=1.0)
    steps: list[int] = []
    for unit in scene.units:
        run_unit(
            unit, scene.recipe, data, tmp_path, lambda _, done, *__: steps.append(done), MachineConfig(num_threads=1)
        )
    assert scene.weights(tmp_path) == scene.expected
    assert steps[0] > 1, "started over instead of going on"
    assert read_selection(tmp_path, select.unit_id) == read_selection(scene.units_root, select.unit_id)


@pytest.mark.parametrize(
    ("machine", "machines", "share"),
    [
        (MachineConfig(), [{"CPU": 20.0}, {"CPU": 8.0}], Share(4, 0)),
        (MachineConfig(), [{"CPU": 20.0}, {"CPU": 2.0}, {}], Share(2, 0)),
        (MachineConfig(num_threads=8), [{"CPU": 20.0}, {"CPU": 2.0}], Share(8, 0)),
        (MachineConfig(), [{"CPU": 2.0}, {"CPU": 6.0, "GPU": 1.0}], Share(4, 1)),
        (MachineConfig(device="cpu"), [{"CPU": 6.0, "GPU": 1.0}], Share(4, 0)),
        (MachineConfig(device="cuda"), [{"CPU": 3.0, "GPU": 2.0}], Share(3, 1)),
    ],
)
def test_a_unit_takes_what_the_smallest_able_machine_has(
    machine: MachineConfig, machines: list[dict[str, float]], share: Share
) -> None:
    assert share_of(machine, machines) == share


@pytest.mark.parametrize(
    ("machine", "machines"),
    [
        (MachineConfig(device="cuda"), [{"CPU": 20.0}]),
        (MachineConfig(num_threads=8), [{"CPU": 4.0}]),
        (MachineConfig(), [{}]),
    ],
)
def test_a_cluster_that_cannot_train_is_refused(machine: MachineConfig, machines: list[dict[str, float]]) -> None:
    with pytest.raises(UsageError, match="no machine of the Ray cluster can train a unit"):
        share_of(machine, machines)


def test_an_attempt_that_was_given_up_is_not_listened_to(tmp_path: Path) -> None:
    node = pytest.importorskip("vnfleet.training.engines.ray_node", reason="the extra vnfleet[ray] is not installed")
    keeper = node.Keeper(str(tmp_path))
    keeper.tell(("unit", 1, "backbone", 3, 9, ""))
    keeper._attempts["unit"] = 2
    keeper.tell(("unit", 1, "backbone", 4, 9, ""))
    keeper.tell(("unit", 2, "backbone", 1, 9, ""))
    assert [(attempt, done) for _, attempt, _, done, _, _ in keeper.news()] == [(1, 3), (2, 1)]
    assert keeper.news() == []
    with pytest.raises(BusyError, match="another machine took over"):
        node.raise_if_recorded(keeper.keep("unit", 1, []), "the keeper")
    node.raise_if_recorded(keeper.keep("unit", 2, []), "the keeper")


def test_a_disk_that_may_not_be_written_beside_the_driver_is_said_in_words(tmp_path: Path) -> None:
    ray_node = pytest.importorskip("vnfleet.training.engines.ray_node", reason="Ray is not installed")
    (tmp_path / "unit").write_text("a file where the folder of a unit must be")
    parcel = ray_node.Parcel("unit/backbone/ckpt-00000001", "checkpoint", ())
    with pytest.raises(ResourceError, match="a file lies where a folder must be"):
        ray_node.raise_if_recorded(ray_node.Keeper(str(tmp_path)).keep("unit", 1, [parcel]), "the keeper")

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "units")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_node, "unpack", forbidden)
        with pytest.raises(ResourceError, match="a file may not be used"):
            ray_node.raise_if_recorded(ray_node.Keeper(str(tmp_path)).keep("unit", 1, [parcel]), "the keeper")


def test_ray_that_is_not_installed_is_a_usage_error(
    scene: Scene, tmp_path: Path, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        run_units(scene.units, scene.job(tmp_path), diary)
    assert "vnfleet[ray]" in str(caught.value)


def test_a_ray_client_address_is_refused_with_the_way_out(scene: Scene, tmp_path: Path, diary: Diary) -> None:
    pytest.importorskip("ray", reason="the extra vnfleet[ray] is not installed")
    job = dataclasses.replace(
        scene.job(tmp_path), machine=MachineConfig(engine="ray", ray_address="ray://desktop:10001")
    )
    with pytest.raises(UsageError, match="ray start --address"):
        run_units(scene.units, job, diary)


def test_a_cluster_that_nobody_started_is_a_usage_error_at_once(scene: Scene, tmp_path: Path, diary: Diary) -> None:
    pytest.importorskip("ray", reason="the extra vnfleet[ray] is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    job = dataclasses.replace(scene.job(tmp_path), machine=MachineConfig(engine="ray", ray_address=address))
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        run_units(scene.units, job, diary)
    assert address in str(caught.value)
