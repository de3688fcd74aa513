"""Ray: a cluster of two nodes on this machine, pictures that end their process, a node that is lost."""

import logging
import os
import sys
from pathlib import Path

import pytest
import toy_work

from editkit.batch import driver, on_ray
from editkit.batch.engines import EngineResources, engine_of
from editkit.batch.folder import Item, items, listing
from editkit.batch.journal import open_journal
from editkit.cli import run
from editkit.errors import ExtraError, UsageError

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from broken_folder import RECIPE, fill

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each, which have what this process's environment has."""
    ray = pytest.importorskip("ray", reason="needs editkit[ray]")
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv(
        "RAY_USAGE_STATS_REPORT_URL", "http://127.0.0.1:9"
    )  # a cluster of nodes says even that it says nothing
    ray.cloudpickle.register_pickle_by_value(toy_work)
    kept = {"num_cpus": 1, "object_store_memory": 80 << 20}
    nodes = Cluster(initialize_head=True, head_node_args={**kept, "include_dashboard": False})
    nodes.add_node(**kept)
    ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    patch.undo()


def pictures(folder: Path, count: int) -> list[Item]:
    folder.mkdir()
    for k in range(count):
        (folder / f"{'b' if k == 3 else f'p{k}'}.png").write_bytes(bytes([k]) * 30)
    return items(listing(folder), folder, folder.parent / "out")


@pytest.mark.slow
def test_a_picture_that_ends_its_process_is_named_and_a_node_that_is_lost_loses_nothing(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    todo = pictures(tmp_path / "in", 40)
    made = []

    def watch(result):
        made.append(result)
        if len(made) == 8:
            cluster.remove_node(node, allow_graceful=False)

    engine = engine_of("ray", EngineResources(actors=(1, 3), device="cpu", memory=1 << 20))
    with open_journal(tmp_path / "out", {}) as journal:
        summary = driver.run(toy_work.dies_slowly, todo, journal, engine, watch=watch)
    assert "its process ended without a word" in summary.failed.pop("b.png")
    assert (summary.made, summary.failed) == (39, {})
    for item in todo:
        assert item.name == "b.png" or Path(item.target).read_bytes() == Path(item.source).read_bytes()


@pytest.mark.slow
def test_the_command_gives_the_bytes_of_the_serial_run(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    bad = fill(tmp_path / "in", pictures=10, broken=3)
    here = ["--device", "cpu", str(tmp_path / "r.yaml"), str(tmp_path / "in")]
    assert run(["batch", *here, str(tmp_path / "out"), "--quiet"]) == 1
    capsys.readouterr()
    assert run(["batch", *here, str(tmp_path / "far"), "--engine", "ray", "--actors", "2"]) == 1
    said = capsys.readouterr().err
    assert {line.split(": ")[1] for line in said.splitlines() if line.startswith("failed: ")} == bad
    made = {p.name: p.read_bytes() for p in Path("out").glob("*.png")}
    assert {p.name: p.read_bytes() for p in Path("far").glob("*.png")} == made
    assert len(made) == 7


@pytest.mark.slow
def test_what_the_cluster_lacks_is_said_before_the_start(cluster, tmp_path, monkeypatch):
    todo = pictures(tmp_path / "in", 1)
    with pytest.raises(UsageError, match="no node has 1 GPU for an actor"):
        list(on_ray.on_ray("", EngineResources(device="cuda"))(toy_work.copy, todo))
    with pytest.raises(UsageError, match="--gpus-per-actor 0: the edit is to run with --device cuda"):
        list(on_ray.on_ray("", EngineResources(device="cuda", gpus_per_actor=0.0))(toy_work.copy, todo))
    with pytest.raises(UsageError, match=r"models need about 1000000.0 GB .*no node gives Ray more than"):
        list(on_ray.on_ray("", EngineResources(device="cpu", memory=10**15))(toy_work.copy, todo))
    found = {**on_ray.installed(), "torch": "0.1"}
    monkeypatch.setattr(on_ray, "_node_versions", lambda ray: [("10.0.0.7", found)])
    with pytest.raises(UsageError, match=r"node 10.0.0.7 has torch 0.1 \(here .*install the same versions everywhere"):
        list(on_ray.on_ray("", EngineResources(device="cpu"))(toy_work.copy, todo))


def test_nobody_at_the_address_and_no_ray_at_all_are_one_line(tmp_path, monkeypatch):
    todo = pictures(tmp_path / "in", 1)
    ray = pytest.importorskip("ray", reason="needs editkit[ray]")

    def nobody(**given):
        raise ConnectionError("Could not connect\nto the GCS")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(UsageError, match=r"no cluster answers at 10.0.0.1:6379 \(Could not connect\)"):
        list(on_ray.on_ray("10.0.0.1:6379", EngineResources())(toy_work.copy, todo))


@pytest.mark.parametrize("told", [None, "1"])
def test_a_ray_that_is_started_here_reports_to_nobody_unless_told_to(tmp_path, monkeypatch, told):
    ray = pytest.importorskip("ray", reason="needs editkit[ray]")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if told is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", told)
    seen = []

    def start(**given):
        seen.append(os.environ.get("RAY_USAGE_STATS_ENABLED"))
        raise ConnectionError("not today")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(UsageError, match="Ray cannot be started here"):
        list(on_ray.on_ray("", EngineResources())(toy_work.copy, pictures(tmp_path / "in", 1)))
    assert seen == [told or "0"]
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == told


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"pip install 'editkit\[ray\]'"):
        list(on_ray.on_ray("", EngineResources())(toy_work.copy, pictures(tmp_path / "in", 1)))


@pytest.mark.parametrize("given", ["0", "x", "3:2", "1:", "1:x"])
def test_actors_are_numbers(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    os.mkdir("in")
    assert run(["batch", "r.yaml", "in", "out", "--engine", "ray", "--actors", given]) == 2
    assert "--actors: must be a number from 1, or two as 2:16" in capsys.readouterr().err


def test_engines_without_actors_refuse_them():
    with pytest.raises(UsageError, match="--engine serial: has no actors"):
        engine_of("serial", EngineResources(actors=(2, 2)))
