"""From one picture at a time to many: overlap, pictures at once, the driver's memory and pace, a thousand workers.

`python benchmarks/scale.py overlap|sizes|workers|driver|simulate|kills [--pictures N]` prints a line of JSON for each
figure. Ratios are of one run, in turns, since machines are busy. docs/scale.md has what came of it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from editkit.batch import lease, ledger
from editkit.batch.catalog import Catalog
from editkit.batch.driver import run_into
from editkit.batch.engines import Result, processes, serial
from editkit.batch.folder import Item, Masks, items, listing
from editkit.batch.journal import Done
from editkit.batch.sources import fill_catalog
from editkit.batch.work import Work, new_models
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

PHOTO = Path(__file__).parent.parent / "assets" / "photos" / "aqueduct.jpg"


def say(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


def overlap(pictures: int, rounds: int = 3) -> None:
    """12-megapixel JPEGs with small masks: one stage after the other, as before, against stages that overlap."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        photo = Image.open(PHOTO).convert("RGB").resize((4000, 3000))
        for k in range(pictures):
            photo.save(root / "in" / f"{k}.jpg", quality=90)
            mask = Image.new("L", photo.size)
            mask.paste(255, (1000, 1000, 1060, 1060))
            mask.save(root / "in" / f"{k}.mask.png")
        todo = items(listing(root / "in"), root / "in", root / "out", Masks())
        for model in ("pocket", "patches"):
            work = Work(Chain.of(Inpaint()).using(model=model, steps=4))
            work(todo[0])
            ratios = []
            for _ in range(rounds):
                before = seconds(lambda work=work: [work(item) for item in todo])
                after = seconds(lambda work=work: list(serial(work, todo)))
                ratios.append(before / after)
            say(what="overlap", model=model, pictures=pictures, ratio=round(statistics.median(ratios), 2),
                all=[round(r, 2) for r in ratios], last_seconds=[round(before, 1), round(after, 1)])  # fmt: skip


def seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def sizes(pictures: int, rounds: int = 3) -> None:
    """Pictures through the network at once, 1 to 8: `pocket`, and a tiny Stable Diffusion of random weights."""
    from diffusers import DDIMScheduler
    from PIL import Image
    from tiny_latent import SD, save_sd

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        photo = Image.open(PHOTO).convert("RGB")
        for k in range(pictures):
            photo.crop((10 * k, 10, 10 * k + 160, 170)).save(root / "in" / f"{k:02}.png")
        todo = items(listing(root / "in"), root / "in", root / "out")
        for model, dtype in (
            ("pocket", "fp32"),
            ("pocket", "auto"),
            (save_sd(root / "tiny", DDIMScheduler(**SD)), "fp32"),
        ):
            chain = Chain.of(Inpaint(mask="box:50,50,90,90")).using(model=str(model), seed=3, dtype=dtype, steps=8)
            works = {n: Work(chain, models=new_models(n), size=n) for n in (1, 2, 4, 8)}
            took: dict[int, list[float]] = {n: [] for n in works}
            busy: dict[int, list[float]] = {n: [] for n in works}  # what neighbours on the machine do not change
            for work in works.values():
                made = list(serial(work, todo[: work.size]))
                assert not made[0].error, made[0].error
            for _ in range(rounds):
                for n, work in works.items():
                    began = time.process_time()
                    took[n].append(seconds(lambda work=work: list(serial(work, todo))))
                    busy[n].append(time.process_time() - began)
            once = statistics.median(took[1])
            ratios = {n: round(once / statistics.median(each), 2) for n, each in took.items()}
            processor = {n: round(min(busy[1]) / min(each), 2) for n, each in busy.items()}
            say(what="sizes", model=Path(str(model)).name, dtype=dtype, a_second=round(pictures / once, 2),
                ratios=ratios, processor_time=processor)  # fmt: skip


def workers(pictures: int, rounds: int = 2) -> None:
    """Two workers, each with half of the threads, against one process with all: pictures a second once both are at
    work, of a cheap edit and of a costly one.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        photo = Image.open(PHOTO).convert("RGB")
        for k in range(pictures):
            photo.crop((5 * k, 10, 5 * k + 160, 170)).save(root / "in" / f"{k:02}.png")
        todo = items(listing(root / "in"), root / "in", root / "out")
        for kind, steps in (("cheap", 1), ("costly", 30)):
            work = Work(Chain.of(Inpaint(mask="box:50,50,90,90")).using(model="pocket", steps=steps))
            ratios = []
            for _ in range(rounds):
                one, two = (pace(engine(work, todo), pictures) for engine in (serial, processes(2)))
                ratios.append(two / one)
            say(what="workers", kind=kind, steps=steps, two_to_one=[round(ratio, 2) for ratio in ratios])


def pace(results: Iterator[Result], count: int) -> float:
    """Pictures a second, from a quarter of them on."""
    times = []
    for result in results:
        assert not result.error, result.error
        times.append(time.perf_counter())
    first = count // 4
    return (count - 1 - first) / (times[-1] - times[first])


class Void:
    """A store that keeps the little that a run asks back."""

    address = "void://out"

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.bytes = 0

    def names(self, under: str = "") -> Iterator[tuple[str, int]]:
        return iter([(name, len(data)) for name, data in self.kept.items() if name.startswith(under)])

    def read(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def size(self, name: str) -> int | None:
        return None

    def create(self, name: str, data: bytes) -> bool:
        return self.kept.setdefault(name, data) == data

    def replace(self, name: str, data: bytes) -> None:
        self.bytes += len(data)
        if name.startswith(lease.FOLDER):
            self.kept[name] = data

    def put(self, name: str, path: str) -> None:
        self.bytes += os.path.getsize(path)

    def remove(self, names: list[str]) -> None:
        for name in names:
            self.kept.pop(name, None)


def drive(names: int, engine: Callable[[object, Sequence[Item]], Iterator[Result]]) -> dict[str, float]:
    """A run's driver, all of it but the work: names from a manifest, a journal into a store."""
    chain = Chain.of(Inpaint(mask="box:0,0,7,7"))
    with tempfile.TemporaryDirectory() as folder, closing(Catalog()) as catalog:
        path = Path(folder) / "m.jsonl"
        with path.open("w") as file:
            for k in range(names):
                file.write(json.dumps({"picture": f"s3://bucket/photos/{k // 1000:04}/{k:08}.jpg"}) + "\n")
        began = time.perf_counter()
        fill_catalog(catalog, chain, str(path), "void://out", None, ".png", False)
        listed = time.perf_counter() - began
        with ledger.open_ledger(Void(), catalog, {"run": "x"}) as book:
            summary = run_into(None, catalog, book, engine, "void://out")
            told = time.perf_counter() - began - listed
        whole = time.perf_counter() - began
    assert summary.made + summary.before == names, summary
    return {"listed": listed, "told": told, "whole": whole}


def as_done(item: Item) -> Result:
    return Result(item, done=Done(item.name, item.output, 7, "0" * 64, 123_456))


def driver(names: Sequence[int]) -> None:
    """Memory and pace of the driver, each size in a process of its own."""
    for count in names:
        code = f"import scale; scale.one_driver({count})"
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


def one_driver(names: int) -> None:
    drive(10, lambda work, items: map(as_done, items))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = drive(names, lambda work, items: map(as_done, items))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(what="driver", names=names, peak_mb=round(most), grown_mb=round(most - before, 1),
        names_a_second=round(names / took["told"]), listed_a_second=round(names / took["listed"]))  # fmt: skip


def simulate(names: int, workers: int = 1000, each: float = 10.0, losses: int = 20, nodes: int = 125) -> None:
    """A thousand workers in made-up time, the driver's work on every name in real time: how busy would it be?

    A picture takes `each` seconds (log-normal, sigma 0.5). At `losses` random moments a node of the `nodes` is lost:
    what its workers were at is given out again, and it comes back after a minute.
    """
    rng = random.Random(0)
    clock, given, lost = [0.0], [0], [0]

    def engine(work: object, items: Sequence[Item]) -> Iterator[Result]:
        left, again = iter(items), []
        end = len(items) * each / workers
        dies = sorted((rng.uniform(0, end), rng.randrange(nodes)) for _ in range(losses))
        busy: list[tuple[float, int, Item]] = []

        def start(now: float, worker: int) -> None:
            item = again.pop() if again else next(left, None)
            if item is not None:
                given[0] += 1
                heapq.heappush(busy, (now + each * rng.lognormvariate(-0.125, 0.5), worker, item))

        for worker in range(workers):
            start(0.0, worker)
        while busy:
            now, worker, item = heapq.heappop(busy)
            clock[0] = now
            while dies and dies[0][0] <= now:
                at, node = dies.pop(0)
                gone = [one for one in busy if one[1] % nodes == node]
                busy[:] = [one for one in busy if one[1] % nodes != node]
                heapq.heapify(busy)
                again.extend(one[2] for one in gone)
                lost[0] += len(gone)
                for one in gone:
                    start(at + 60.0, one[1])
            yield as_done(item)
            start(now, worker)

    took = drive(names, engine)
    say(what="simulate", workers=workers, names=names, made_up_hours=round(clock[0] / 3600, 3), given_out=given[0],
        lost_with_nodes=lost[0], driver_seconds=round(took["told"], 1), driver_busy=round(took["told"] / clock[0], 4),
        workers_until_saturated=round(workers * clock[0] / took["told"]))  # fmt: skip


def kills(pictures: int, broken: int, worker_kills: int) -> None:
    """A bucket (moto) and a Ray cluster of two nodes on this machine: a node lost, workers killed, the driver killed
    and resumed. Every result must be the serial run's bytes, each broken picture named, nothing twice or half there.
    """
    import fsspec
    import psutil
    from broken_folder import RECIPE, fill
    from moto.server import ThreadedMotoServer
    from ray.cluster_utils import Cluster

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{service.get_host_and_port()[1]}",
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    fs.mkdir("bucket")
    kept = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**kept, "include_dashboard": False})
    second = cluster.add_node(**kept)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bad = fill(root / "in", pictures, broken)
        (root / "r.yaml").write_text(RECIPE)
        for path in (root / "in").iterdir():
            if path.exists():  # dangling links are no objects
                fs.pipe_file(f"bucket/in/{path.name}", path.read_bytes())
        bad = {name for name in bad if fs.exists(f"bucket/in/{name}")}
        code = [sys.executable, "-c", "from editkit.cli import main; main()", "batch", str(root / "r.yaml")]
        words = ["s3://bucket/in", "s3://bucket/whole"]
        subprocess.run([*code, *words, "--quiet"], check=False, stderr=subprocess.DEVNULL)
        whole = {p.rpartition("/")[2]: fs.cat_file(p) for p in fs.glob("bucket/whole/*.png")}
        rng, killed, said = random.Random(0), 0, root / "said.txt"

        def start() -> subprocess.Popen[bytes]:
            with said.open("wb") as file:
                engine = ["--engine", f"ray:{cluster.address}", "--actors", "2", "--resume", "--quiet"]
                return subprocess.Popen([*code, "s3://bucket/in", "s3://bucket/far", *engine], stderr=file)

        def done() -> int:
            return len(fs.glob("bucket/far/*.png"))

        run, node_lost, driver_killed = start(), False, False
        while run.poll() is None:
            time.sleep(0.5)
            share = done() / len(whole)
            if killed < worker_kills and share > killed / worker_kills * 0.9:
                at_work = [
                    p for p in psutil.process_iter(["cmdline"]) if "ray::MapWorker" in " ".join(p.info["cmdline"] or [])
                ]
                at_work = [p for p in at_work if p.username() == psutil.Process().username()]
                if at_work:
                    rng.choice(at_work).kill()
                    killed += 1
            if not node_lost and share > 0.3:
                cluster.remove_node(second, allow_graceful=False)
                cluster.add_node(**kept)
                node_lost = True
            if not driver_killed and share > 0.6:
                run.send_signal(signal.SIGKILL)
                run.wait()
                run, driver_killed = start(), True
        far = {p.rpartition("/")[2]: fs.cat_file(p) for p in fs.glob("bucket/far/*.png")}
        lines = [json.loads(line) for line in fs.cat_file("bucket/far/editkit-batch.jsonl").splitlines()]
        made = [line["picture"] for line in lines if line["state"] == "done"]
        named = {line["picture"] for line in lines if line["state"] == "failed"}
        say(what="kills", pictures=pictures, results=len(far), equal=far == whole, named=len(named),
            named_are_the_broken=named == bad, twice=len(made) - len(set(made)), worker_kills=killed,
            node_lost=node_lost, driver_killed=driver_killed, exit_code=run.returncode,
            said="" if far == whole else said.read_text()[-400:])  # fmt: skip
    cluster.shutdown()
    service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overlap", "sizes", "workers", "driver", "simulate", "kills"])
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--broken", type=int, default=25)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it; torch is not loaded yet
    match given.what:
        case "overlap":
            overlap(given.pictures or 8)
        case "sizes":
            sizes(given.pictures or 16)
        case "workers":
            workers(given.pictures or 16)
        case "driver":
            driver([given.pictures] if given.pictures else [1_000, 10_000, 100_000])
        case "simulate":
            simulate(given.pictures or 100_000)
        case "kills":
            kills(given.pictures or 500, given.broken, given.kills)


if __name__ == "__main__":
    main()
