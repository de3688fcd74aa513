"""Damaged inputs at everything that reads what a stranger may have written: each is read, or refused with one line.

    python benchmarks/fuzz.py                       # 2,000 inputs for each reader, some minutes
    python benchmarks/fuzz.py --inputs 50000 --seed 7 --only PNG,recipe --json fuzz.json

An input is one of the reader's own good ones with some bytes flipped, cut, doubled, exchanged with another's, or a
number in it made large. Whatever is raised other than `EditkitError`, or said in more than one line, is a failure: the
input is written beside (`--keep FOLDER`). Reported for each reader: inputs, how many were still read, failures, the
slowest input in seconds, and by how much the process's memory grew at most (MiB).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, features

from editkit.batch.journal import NAME, open_journal
from editkit.batch.manifest import rows
from editkit.batch.reach import Reach
from editkit.batch.scoring import read_prompts
from editkit.cli.options import HelpWasShown
from editkit.cli.words import parse
from editkit.editing import recipe
from editkit.errors import EditkitError
from editkit.models.files.overlay import list_tensors
from editkit.models.files.weights import shapes
from editkit.pictures.files.clips import Clip
from editkit.pictures.files.provenance import find_provenance, strip_bytes
from editkit.pictures.files.xmp import insert_provenance
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import from_words
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

Read = Callable[[bytes], object]

LARGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\xff\xff", b"\x00\x01")
TOKENS = tuple(
    b"{} [] & * << : - ! % @ ` ~ .inf .nan 1e999 0x 9999999999 ../ / \\ \0 \xff \xed\xa0\x80 \n \r {{".split(b" ")
)


@dataclass(frozen=True)
class Target:
    """What is fuzzed: good inputs, and the function that reads one."""

    seeds: Sequence[bytes]
    read: Read
    mend: Callable[[bytes], bytes] | None = None
    """Puts right what would end every reading early (checksums); half of the inputs are mended."""


@dataclass
class Report:
    """What came of it."""

    name: str
    inputs: int = 0
    read: int = 0
    failures: int = 0
    slowest: float = 0.0
    mib: float = 0.0


def scene(side: int = 24) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side]
    return np.stack([9 * x, 9 * y, 5 * (x + y)], -1).clip(0, 255).astype(np.uint8)


def encoded(format: str, mode: str = "RGB", **more: object) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    if format in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        more.setdefault("exif", exif.tobytes())
    if format in ("JPEG", "WEBP", "AVIF"):
        more.setdefault("xmp", insert_provenance(None, '{"a": 1}'))
    Image.fromarray(scene()).convert(mode).save(buffer, format, **more)
    return buffer.getvalue()


def sixteen(ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{ending}"
        Picture.read(scene().astype(np.uint16) * np.uint16(257)).write(path)
        return path.read_bytes()


RECIPE = b"""editkit: 2
stages:
  - plugins:
      - inpaint: {mask: "box:0,0,7,7", grow: 2}
      - guide: {loss: color, color: "#a05030", start: 0.1}
    options: {steps: 2, seed: 5, sampler: "ddim:eta=1"}
"""
WORDS = (
    b"inpaint\nx.png\n--mask\nbox:0,0,9,9+border:2\n--steps\n3\nwith\nguide\n--loss\ncolor\n--color\n#102030",
    b"sdedit\nx.png\n--strength\n0.4\nthen\nupscale\n--scale\n2\n-o\no.png",
)
MASKS = (b"box:1,2,50%,9-ellipse:0,0,9,9+border:3&color:#102030~5", b"polygon:0,0,9,0,9,9", b"color:white+brightness")


def targets() -> dict[str, Target]:
    """Every reader of what may come from elsewhere."""
    picture = Picture.read(scene())
    files = {
        "PNG": [encoded("PNG"), encoded("PNG", "RGBA"), encoded("PNG", "P"), encoded("PNG", "1"), sixteen(".png")],
        "JPEG": [
            encoded("JPEG"),
            encoded("JPEG", "CMYK"),
            encoded("JPEG", "L", comment=b"c"),
            encoded("JPEG", quality=30),
        ],
        "TIFF": [
            encoded("TIFF"),
            encoded("TIFF", "RGBA", compression="tiff_lzw"),
            encoded("TIFF", "L"),
            sixteen(".tif"),
        ],
        "WebP": [encoded("WEBP"), encoded("WEBP", "RGBA", lossless=True)],
        "GIF": [encoded("GIF", "P")],
        "BMP": [encoded("BMP"), encoded("BMP", "P")],
        "PPM": [encoded("PPM"), b"P5 # c\n4 4\n65535\n" + bytes(32), b"P3 2 1 255 1 2 3 4 5 6"],
        "JPEG 2000": [encoded("JPEG2000")],
    }
    if features.check("avif"):
        files["AVIF"] = [encoded("AVIF")]
    mends = {"PNG": with_checksums}
    found = {name: Target(seeds, Picture.read, mends.get(name)) for name, seeds in files.items()}
    everything = [seed for seeds in files.values() for seed in seeds]
    found["provenance"] = Target(everything, lambda data: find_provenance(data) or "")
    found["strip"] = Target(everything, strip_bytes)
    found["recipe"] = Target([RECIPE], lambda data: recipe.from_yaml(data.decode("utf-8", "replace")))
    found["words"] = Target(WORDS, lambda data: parse(data.decode("utf-8", "surrogateescape").split("\n")))
    found["mask words"] = Target(MASKS, lambda data: from_words(data.decode("utf-8", "replace"), picture))
    found["journal"] = Target([_journal()], _read_journal)
    found["safetensors"] = Target([_tensors()], _read_tensors)
    found["manifest"] = Target(MANIFESTS, _read_manifest)
    found["CSV"] = Target([CSV], lambda data: _named(data, "m.csv", read_prompts))
    if find_spec("pyarrow"):
        found["Parquet"] = Target([_parquet()], lambda data: _rows(data, "m.parquet"))
    if find_spec("gguf"):
        found["GGUF"] = Target(
            [_gguf()], lambda data: _named(data, "x.gguf", lambda file: list(list_tensors("x", file)))
        )
    if find_spec("av"):
        found["video"] = Target([_video(ending) for ending in (".mkv", ".mp4")], _read_video)
    return found


MANIFESTS = (
    b'{"picture": "in/a.png", "mask": "in/m.png", "seed": 11, "grow": 1, "prompt": "old \\u00e9"}\n'
    b'{"picture": "b.png", "mask": "box:0,0,5,5", "output": "named.png", "steps": null}\n',
)
CSV = b'\xef\xbb\xbfpicture,mask,prompt,category\r\nin/a.png,in/m.png,"old, ""high"" walls",signs\r\nb.png,,x,y\r\n'


def _rows(data: bytes, name: str) -> object:
    return list(rows(io.BytesIO(data), name, Chain.of(Inpaint(mask="box:0,0,7,7"))))


def _read_manifest(data: bytes) -> object:
    """As a table, and where its rows would lead."""
    found = _rows(data, "m.jsonl")
    reach = Reach.of("m.jsonl", "out", None, anywhere=False)
    for number, row in enumerate(found, 1):
        reach.check("m.jsonl", number, row.pop("picture"))
        reach.check_columns("m.jsonl", number, row)
    return found


def _named(data: bytes, name: str, read: Callable[[Path], object]) -> object:
    """What a reader makes of a file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(data)
        return read(file)


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    columns = {"picture": ["a.png", "b.png"], "seed": [1, None], "prompt": ["x", "y" * 50]}
    pyarrow.parquet.write_table(pyarrow.table(columns), held)
    return held.getvalue()


def _gguf() -> bytes:
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.gguf"
        writer = gguf.GGUFWriter(file, "flux")
        writer.add_array("words", ["a", "b"])
        writer.add_array("numbers", [1.5, 2.5])
        writer.add_tensor("a", np.ones((2, 32), np.float32))
        writer.add_tensor("b", gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0),
                          raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def _video(ending: str) -> bytes:
    import av

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"x{ending}"
        with av.open(str(file), "w") as out:
            stream = out.add_stream("libx264" if ending == ".mp4" else "ffv1", rate=5)
            stream.width, stream.height, stream.pix_fmt = 24, 24, "yuv420p" if ending == ".mp4" else "bgr0"
            for k in range(3):
                frame = av.VideoFrame.from_ndarray(np.roll(scene(), k, 1), format="rgb24")
                for packet in stream.encode(frame.reformat(format=stream.pix_fmt)):
                    out.mux(packet)
            for packet in stream.encode(None):
                out.mux(packet)
        return file.read_bytes()


def _read_video(data: bytes) -> object:
    return _named(data, "x.mkv", lambda file: sum(1 for _ in islice(Clip.open(file).frames(), 10)))


def _journal() -> bytes:
    line = {"state": "done", "picture": "a.png", "output": "a.png", "seed": 1, "sha256": "0" * 64, "bytes": 9}
    return (json.dumps({"state": "run", "recipe": "r"}) + "\n" + json.dumps(line) + "\n").encode()


def _read_journal(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(data)
        with open_journal(Path(folder), {"recipe": "r"}, resume=True) as journal:
            return journal.settle("a.png", "a.png")


def _tensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def _read_tensors(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        file.write_bytes(data)
        return list(shapes("x", file))


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds, damaged in one to six places."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(8):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                del data[at : at + draw.randrange(1, 40)]
            case 3:
                data[at:at] = data[at : at + draw.randrange(1, 200)] * draw.choice((1, 2, 50))
            case 4:
                other = draw.choice(seeds)
                begin = draw.randrange(len(other) + 1)
                data[at : at + 60] = other[begin : begin + 60]
            case 5:
                large = draw.choice(LARGE)
                data[at : at + len(large)] = large
            case 6:
                token = draw.choice(TOKENS)
                data[at:at] = token * draw.choice((1, 1, 30))
            case _:
                if at < len(data):
                    data[at] ^= 1 << draw.randrange(8)
        data = data[: 1 << 18]
    return bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right, as far as they can be walked."""
    made, at = bytearray(data), 8
    while at + 12 <= len(made):
        (length,) = struct.unpack_from(">L", made, at)
        end = at + 8 + length
        if end + 4 > len(made):
            break
        struct.pack_into(">L", made, end, zlib.crc32(bytes(made[at + 4 : end])))
        at = end + 4
    return bytes(made)


def fuzz(name: str, target: Target, inputs: int, seed: int, failed: Callable[[bytes, str], None]) -> Report:
    """`inputs` damaged inputs at one target; each failure is told to `failed`."""
    draw, report = random.Random(f"{name} {seed}"), Report(name)
    for data in target.seeds:
        target.read(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(inputs):
        data, began = mutated(target.seeds, draw), time.perf_counter()
        if target.mend is not None and draw.random() < 0.5:
            data = target.mend(data)
        report.inputs += 1
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                target.read(data)
            report.read += 1
        except HelpWasShown:
            report.read += 1
        except EditkitError as error:
            if "\n" in str(error).strip() or len(str(error)) > 2000:
                report.failures += 1
                failed(data, f"{len(str(error))} characters, or several lines: {str(error)[:200]!r}")
        except Exception as error:  # what must not happen
            report.failures += 1
            failed(data, f"{type(error).__name__}: {str(error)[:200]}")
        report.slowest = max(report.slowest, time.perf_counter() - began)
    report.mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names, with commas between")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that fail")
    given = parser.parse_args()
    reports = list(_reports(given))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    return int(any(report.failures for report in reports))


def _reports(given: argparse.Namespace) -> Iterator[Report]:
    sys.stdout.write("reader        inputs    read  failures  slowest s  memory MiB\n")
    for name, target in targets().items():
        if given.only is not None and name not in given.only.split(","):
            continue

        def failed(data: bytes, why: str, name: str = name) -> None:
            sys.stdout.write(f"  {name}: {why}\n")
            if given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{name}-{abs(hash(data)):x}").write_bytes(data)

        report = fuzz(name, target, given.inputs, given.seed, failed)
        counts = f"{name:12} {report.inputs:7} {report.read:7} {report.failures:9}"
        sys.stdout.write(f"{counts} {report.slowest:10.3f} {report.mib:11.0f}\n")
        sys.stdout.flush()
        yield report


if __name__ == "__main__":
    raise SystemExit(main())
