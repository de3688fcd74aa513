"""What a small file claims is compared with what it has before a library believes it.

Siblings of what outside attempts found (docs/reliability.md), in readers that came later. No network.
"""

import contextlib
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_files
import torch

from editkit.batch.manifest import LONGEST, rows
from editkit.common import trust
from editkit.errors import ModelError, UsageError
from editkit.models.files import gguf_header
from editkit.models.files.gguf_header import MOST, HeaderError, check_header
from editkit.plugin.chain import Chain
from editkit.plugins import Inpaint

# --------------------------------------------------------------------------------------------------- GGUF headers


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def header(tensors: int, values: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, values) + rest


def array(kind: int, count: int) -> bytes:
    return text(b"a") + struct.pack("<IIQ", 9, kind, count)


def tensor(*sides: int, offset: int = 0) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, 0, offset) + b"\0" * 64


CLAIMS = {
    "numbers without end": header(0, 1, array(0, 2**50)),
    "texts without end": header(0, 1, array(8, 2**50)),
    "more numbers than bytes": header(0, 1, array(0, 50_000)),
    "more than a network needs": header(0, 1, array(0, MOST + 1) + b"\0" * (MOST + 1)),
    "arrays in arrays": header(0, 1, array(9, 1) + struct.pack("<IQ", 9, 1) * 1000),
    "arrays of arrays of arrays": header(0, 1, array(9, 1000) + (struct.pack("<IQ", 0, 100) + b"\0" * 100) * 1000),
    "a long text": header(0, 1, struct.pack("<Q", 2**60)),
    "many values": header(0, 2**40),
    "many tensors": header(2**40, 0),
    "many sides": header(1, 0, text(b"t") + struct.pack("<I", 2**31)),
    "a kind of value that there is not": header(0, 1, text(b"a") + struct.pack("<I", 99)),
    "no header": b"GGUF",
    "another file": b"PK\3\4" * 20,
    "nothing": b"",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_gguf_claims_no_more_than_it_has(tmp_path, name):
    file = tmp_path / "x.gguf"
    file.write_bytes(CLAIMS[name])
    with pytest.raises(HeaderError):
        check_header(file)


@pytest.mark.parametrize("name", CLAIMS)
def test_it_is_one_line_for_the_user_and_the_library_is_not_asked(tmp_path, name, monkeypatch):
    gguf = pytest.importorskip("gguf")
    from editkit.models.files.overlay import list_tensors

    monkeypatch.setattr(gguf, "GGUFReader", lambda file: pytest.fail("the library was asked"))
    file = tmp_path / "x.gguf"
    file.write_bytes(CLAIMS[name])
    with pytest.raises(ModelError, match=r"x\.gguf (is damaged or not a GGUF file|is empty)") as error:
        list(list_tensors("m", file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sides", [(2**40, 2**40), (2**32, 2**32), (8, 2**62), (0, 2**40)])
def test_a_tensor_of_a_gguf_that_the_file_has_not_is_refused(tmp_path, sides):
    pytest.importorskip("gguf")
    from editkit.models.files.overlay import list_tensors

    file = tmp_path / "x.gguf"
    file.write_bytes(header(1, 0, tensor(*sides)))
    with contextlib.suppress(ModelError):
        assert all(0 in one.shape for one in list_tensors("m", file))  # nothing of it is there, and it says so


def test_headers_of_whole_files_are_read_to_their_end(tmp_path):
    gguf = pytest.importorskip("gguf")
    file = tiny_files.gguf({"a": torch.ones(4, 32), "b": torch.ones(3)}, tmp_path / "x.gguf")
    check_header(file)
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "flux")
    writer.add_array("words", ["a", "b"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_string("name", "x" * 1000)
    writer.add_bool("yes", True)
    writer.add_uint64("many", 2**60)
    writer.add_tensor("a", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_header(tmp_path / "y.gguf")


def test_what_is_looked_at_grows_with_what_is_there(tmp_path):
    """Numbers of an array are stepped over: 60,000 of them are one seek."""
    reads = []

    class Counting:
        def __init__(self, file):
            self.file = file

        def read(self, count):
            reads.append(count)
            return self.file.read(count)

        def __getattr__(self, name):
            return getattr(self.file, name)

    file = tmp_path / "x.gguf"
    file.write_bytes(header(0, 1, array(4, 60_000) + b"\0" * 240_000))
    with file.open("rb") as data:
        gguf_header._Header(Counting(data), file.stat().st_size).read()
    assert sum(reads) < 200


# ------------------------------------------------------------------------------------------------ Parquet, manifests


def table(tmp_path, columns) -> list:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "m.parquet"
    parquet.write_table(sys.modules["pyarrow"].table(columns), file, compression="zstd", row_group_size=10**9)
    with file.open("rb") as data:
        return list(rows(data, "m.parquet", Chain.of(Inpaint(mask="box:0,0,3,3"))))


def repeated(word: str, count: int):
    """A column that says one text `count` times, in a few bytes."""
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int8)), pyarrow.array([word]))


def test_a_parquet_of_more_rows_than_it_can_have_is_none(tmp_path):
    with pytest.raises(UsageError, match="claims 10000000 rows of .* it is no table of pictures"):
        table(tmp_path, {"picture": repeated("a.png", 10_000_000)})


def test_a_long_text_in_every_row_is_refused_at_the_first(tmp_path):
    names = [f"{k}.png" for k in range(1000)]
    with pytest.raises(UsageError, match=f"row 1 has 8000000 characters in prompt; {LONGEST} at most"):
        table(tmp_path, {"picture": names, "prompt": repeated("x" * 8_000_000, 1000)})


def test_parquets_of_people_are_read(tmp_path):
    names = [f"photos/{k:07}.jpg" for k in range(20_000)]
    found = table(tmp_path, {"picture": names, "mask": ["box:0,0,3,3"] * len(names)})
    assert [row["picture"] for row in found] == names


# ------------------------------------------------------------------------------------------------ configurations

CODE = {"_attn_implementation": "a/kernel", "quantization_config": {"quant_method": "x"}, "use_kernels": True,
        "auto_map": {"AutoModel": "evil.Model"}, "experts_implementation": "a/b"}  # fmt: skip


@pytest.mark.parametrize("key", CODE)
@pytest.mark.parametrize("deep", [lambda v: v, lambda v: {"text_config": v}, lambda v: {"a": [1, [v]]}])
def test_no_folder_that_masks_ask_chooses_code(key, deep):
    with pytest.raises(ModelError, match=f"has '{key}', which would run code"):
        trust.check_no_code("folder", "config.json", deep({key: CODE[key]}))
    trust.check_no_code("folder", "config.json", deep({key: None, "_attn_implementation": "sdpa", "kernel_size": 3}))


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    import tiny_masks

    return tiny_masks.clipseg(tmp_path_factory.mktemp("clipseg"))


def changed(folder: Path, into: Path, file: str, change) -> Path:
    shutil.copytree(folder, into)
    said = json.loads((into / file).read_text())
    change(said)
    (into / file).write_text(json.dumps(said))
    return into


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda c: c["text_config"].update(num_hidden_layers=10**7), "num_hidden_layers = 10000000"),
        ("config.json", lambda c: c["vision_config"].update(hidden_size=10**8), "hidden_size = 100000000"),
        ("config.json", lambda c: c["text_config"].update(_attn_implementation="a/b"), "which would run code"),
        ("preprocessor_config.json", lambda c: c.update(size={"height": 10**5, "width": 10**5}), "= 100000; 4096"),
        ("preprocessor_config.json", lambda c: c.update(size=10**9), "size = 1e+09; 4096"),
    ],
)
def test_a_network_for_masks_is_as_large_as_its_weights(clipseg, tmp_path, file, change, said, monkeypatch):
    import transformers

    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import from_words

    kind = transformers.CLIPSegForImageSegmentation
    monkeypatch.setattr(kind, "from_pretrained", lambda *a, **k: pytest.fail("it was built"))
    folder = changed(clipseg, tmp_path / "f", file, change)
    picture = Picture(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ModelError) as error:
        from_words("text:a dog", picture, [str(folder)])
    assert said in str(error.value)


def test_shards_of_a_network_for_masks_lie_beside_their_index(clipseg, tmp_path):
    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import from_words

    folder = Path(shutil.copytree(clipseg, tmp_path / "f"))
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    shutil.copy(tmp_path / "model.safetensors", folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ModelError, match=r"lists '\.\./model\.safetensors'"):
        from_words("text:a dog", Picture(np.zeros((20, 20, 3), np.uint8)), [str(folder)])


@pytest.mark.parametrize("config", [{"size": {"shortest_edge": 10**6}}, {"crop_size": [224, 10**6]}, {"size": 1e300},
                                    {"size": {"height": float("nan")}}, {"min_pixels": 10**12}])  # fmt: skip
def test_a_preparation_enlarges_no_picture_without_end(config):
    with pytest.raises(ModelError, match="is the most that is taken"):
        trust.check_preprocessor_config("f", "preprocessor_config.json", {"a": [config]})
    known = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "crop_size": 224, "min_pixels": 3136,
             "max_pixels": 12845056, "do_resize": True, "image_mean": [0.5, 0.5, 0.5]}  # fmt: skip
    trust.check_preprocessor_config("f", "preprocessor_config.json", known)
