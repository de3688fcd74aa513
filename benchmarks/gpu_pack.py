"""What a machine with a GPU and without a network needs beside the working tree, into one ignored folder (`.gpu`).

    python benchmarks/gpu_pack.py --photos ../shared/photos

photos/  the photographs by their names, made smaller until they fit, with their manifest
wheels/  packages that are not there: diffusers, pydantic and what they need, and open_clip for its tokenizer's words
site/    editkit's metadata: its plugins, samplers and models are found through it (the code is the working tree)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
WHEELS = (
    "diffusers", "pydantic", "pydantic_core", "typing_inspection", "annotated_types", "importlib_metadata",
    "open_clip_torch",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LONGEST = (1024, 896, 768, 704, 640, 576, 544, 512, 448, 384)
LIMIT = 64.0
"""MiB that may travel in all: what git does not ignore, and this folder."""
QUALITY = 88


def packed(photo: Path, longest: int) -> bytes:
    """The photograph, upright, as a JPEG whose longer side is at most `longest`."""
    with Image.open(photo) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return file.getvalue()


def pack_photos(photos: Path, folder: Path, mebibytes: float) -> str:
    """Every photograph, as large as the sum allows; a small original is kept as it is."""
    files = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    for longest in LONGEST:
        made = {p.name: min(packed(p, longest), p.read_bytes(), key=len) for p in files}
        if sum(map(len, made.values())) <= mebibytes * 2**20:
            break
    else:
        raise SystemExit(f"{photos}: does not fit into {mebibytes} MiB even at {LONGEST[-1]} pixels")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    if (photos / "manifest.json").is_file():
        shutil.copy(photos / "manifest.json", folder)
    size = sum(map(len, made.values())) / 2**20
    return f"{len(made)} photographs, longer side at most {longest}, {size:.1f} MiB"


def pack_wheels(folder: Path, python: str) -> str:
    """The versions of this environment, for Linux on x86-64."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    where = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", python, *where, "-d", str(folder), *names,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    size = sum(p.stat().st_size for p in folder.iterdir()) / 2**20
    return f"{', '.join(names)}: {size:.1f} MiB"


def pack_metadata(folder: Path) -> str:
    """METADATA and entry_points.txt of the installed editkit."""
    found = importlib.metadata.distribution("editkit")
    shutil.rmtree(folder, ignore_errors=True)
    where = folder / f"editkit-{found.version}.dist-info"
    where.mkdir(parents=True)
    for name in ("METADATA", "entry_points.txt"):
        text = found.read_text(name)
        if text is None:
            raise SystemExit(f"the installed editkit has no {name}; install it again")
        (where / name).write_text(text)
    return f"editkit {found.version}"


def travelling(folder: Path) -> float:
    """MiB of the working tree's files that git does not ignore, and of the folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = [ROOT / name for name in listed.split("\0") if name] + list(folder.rglob("*"))
    return sum(p.stat().st_size for p in files if p.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--mebibytes", type=float, default=9.5, help="of the photographs")
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument("--no-wheels", action="store_true", help="leave out the packages (they need a network)")
    asked = parser.parse_args()
    print("photos:", pack_photos(asked.photos, asked.output / "photos", asked.mebibytes))
    print("metadata:", pack_metadata(asked.output / "site"))
    if not asked.no_wheels:
        print("wheels:", pack_wheels(asked.output / "wheels", asked.python))
    whole = travelling(asked.output)
    print(f"in all {whole:.1f} MiB of {LIMIT:.0f}")
    if whole > LIMIT - 0.5:
        raise SystemExit("that is too much: give less to --mebibytes")


if __name__ == "__main__":
    main()
