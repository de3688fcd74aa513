"""Files of strangers: models, CLIP folders, provenance, journals, recipes run no code and name no file elsewhere."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from toy_hardening import here

from editkit.batch.driver import Work
from editkit.batch.folder import Item, Masks, items, listing
from editkit.batch.journal import NAME, PARTS, Done, open_journal
from editkit.cli import run
from editkit.cli.console import printable
from editkit.common import trust
from editkit.editing import recipe
from editkit.errors import HookError, ModelError, PictureError, RecipeError, UsageError, short
from editkit.models.clip import load_clip
from editkit.models.files.weights import shapes
from editkit.pictures.files.provenance import Provenance, read_provenance
from editkit.pictures.picture import Picture
from editkit.plugin import called
from editkit.plugin.chain import Chain, Stage
from editkit.plugins import Inpaint, Uncrop

__all__ = ["here"]

# ----------------------------------------------------------------------------------------------- models' folders


@pytest.mark.parametrize(
    "listed",
    [
        [], ["transformers"], "CLIPTokenizer", ["transformers", 5], ["transformers", "AutoTokenizer"],
        ["transformers", "AutoProcessor"], ["transformers", "RagTokenizer"], ["os", "CLIPTokenizer"], None, 5,
        ["transformers", "CLIPTokenizer", "more"], ["transformers", "CLIPTokenizerEvil"],
    ],
)  # fmt: skip
def test_only_known_classes_of_two_libraries_may_be_named(listed):
    with pytest.raises(ModelError, match="tokenizer"):
        trust.check_component("m", "tokenizer", listed, trust.TOKENIZERS)
    assert (
        trust.check_component("m", "tokenizer", ["transformers", "CLIPTokenizer"], trust.TOKENIZERS) == "CLIPTokenizer"
    )


@pytest.mark.parametrize("word", ["../a.safetensors", "/a.safetensors", "b\\a.safetensors", "a.bin", 5, ["a"], None,
                                  "a\0.safetensors", "..safetensors"])  # fmt: skip
def test_shards_lie_beside_their_index(tmp_path, word):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"x": word}}))
    with pytest.raises(ModelError, match="without folders"):
        list(shapes("m", file))


@pytest.mark.parametrize("text", ["[]", "null", '{"weight_map": 5}', '{"weight_map": ["a"]}', "[" * 100_000])
def test_an_index_of_shards_that_is_none_is_told(tmp_path, text):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(text)
    with pytest.raises(ModelError, match="index of shards"):
        list(shapes("m", file))


def _clip(**text):
    return {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1}, "text_cfg": text}}


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_kwargs": {"trust_remote_code": True}},
        {"tokenizer_kwargs": {"tokenizer_file": "/etc/passwd"}},
        {"tokenizer_kwargs": [["trust_remote_code", True]]},
        {"hf_model_name": "a/b"},
        {"hf_model_pretrained": True},
        {"width": {"a": 1}},
    ],
)
def test_a_clip_configuration_names_no_code_and_no_hub(change):
    with pytest.raises(ModelError, match="clip: c"):
        trust.check_clip_config("c", _clip(**change), None)


@pytest.mark.parametrize("config", [None, [], {}, {"model_cfg": 5}, {"model_cfg": {"vision_cfg": {}}}])
def test_a_clip_configuration_that_is_none_is_told(config):
    with pytest.raises(ModelError, match="has no"):
        trust.check_clip_config("c", config, None)


def test_a_clip_configuration_names_known_towers_and_tokenizers():
    plain = _clip(context_length=16, hf_tokenizer_name="x", tokenizer_kwargs={"clean": "canonicalize"})
    assert trust.check_clip_config("c", plain, {"tokenizer_class": "TokenizersBackend"}) is plain
    with pytest.raises(ModelError, match="tokenizer"):
        trust.check_clip_config("c", plain, {"tokenizer_class": "Evil"})
    for name in ("hf-hub:a/b", "a/b", 5):
        place = _clip()
        place["model_cfg"]["vision_cfg"]["timm_model_name"] = name
        with pytest.raises(ModelError, match="timm_model_name"):
            trust.check_clip_config("c", place, None)


def test_a_clip_folder_runs_no_code(tmp_path):
    import torch

    config = _clip(hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True})
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_clip(str(tmp_path), torch.device("cpu"), offline=True)
    assert not (tmp_path / "RAN").exists()


# ----------------------------------------------------------------------------------------------- rerun, provenance


@pytest.mark.parametrize("name", ["/a/b.png", "../b.png", "a/b.png", "a\\b.png", "..", "", "a\0"])
def test_rerun_takes_no_picture_from_elsewhere(name):
    with pytest.raises(PictureError, match="--picture"):
        trust.check_provenance_paths("f.png", name, {})


@pytest.mark.parametrize("value", ["/a/b.png", "../b.png", "kernel:/a/b.png", "kernel:../b.png", "m/../../b", "~/b.png",
                                   "C:\\b.png", ["ok.png", "/b.png"], "softedge:size=3,weights=/b",
                                   {"deep": ["../b"]}])  # fmt: skip
def test_rerun_reads_no_file_from_elsewhere(value):
    with pytest.raises(PictureError, match="lies elsewhere"):
        trust.check_provenance_paths("f.png", None, {"stages": [{"plugins": [{"inpaint": {"mask": value}}]}]})
    trust.check_provenance_paths("f.png", None, {"stages": [{"options": {"prompt": "/imagine ../ a cat"}}]})


def test_rerun_follows_no_link_out_of_the_folder(here):
    Path("in").mkdir()
    Path("in/m.png").symlink_to(here / "x.png")
    for name, plugins in (("m.png", []), (None, [{"inpaint": {"mask": "m.png"}}])):
        with pytest.raises(PictureError, match="link out of|elsewhere"):
            trust.check_provenance_paths("in/f.png", name, {"stages": [{"plugins": plugins}]})


def test_rerun_asks_no_hub_and_says_how_it_would(here, capsys):
    made = {"editkit": 1, "stages": [{"plugins": [{"sdedit": {}}], "options": {"model": "no/such"}}]}
    Picture.read("x.png").write("f.png", provenance=Provenance(recipe=made, picture="x.png"))
    assert run(["rerun", "f.png"]) == 1
    assert "--download" in capsys.readouterr().err
    assert run(["rerun", "f.png", "--offline", "--download"]) == 2


@pytest.mark.parametrize(
    ("path", "kept"),
    [("/home/alice/m.png", "m.png"), ("../../alice/m.png", "m.png"), ("kernel:/home/alice/k.png", "kernel:k.png"),
     ("softedge:size=3,weights=/home/alice/m.d", "softedge:size=3,weights=m.d"), ("ode:rtol=.1", "ode:rtol=.1"),
     ("softedge:weights=../alice/m", "softedge:weights=m"),
     ("masks/m.png", "masks/m.png"), ("box:1,2,3,4", "box:1,2,3,4"), ("a/b/sd", "sd"),
     ("caf\udce9.png", "caf\ufffd.png")],
)  # fmt: skip
def test_provenance_holds_no_folder_of_its_author(here, path, kept):
    Path("a/b/sd").mkdir(parents=True)
    made = Provenance.of({"stages": [{"plugins": [{"inpaint": {"mask": path}}]}]})
    assert made.recipe["stages"][0]["plugins"][0]["inpaint"]["mask"] == kept
    assert Provenance.from_text(made.to_text()) == made


# ----------------------------------------------------------------------------------------------- batch


def test_a_journal_puts_nothing_where_the_batch_does_not(here):
    victim = here / "victim.txt"
    victim.write_text("precious")
    for output in ("../victim.txt", str(victim), "b.png", "."):
        out = here / "out"
        (out / PARTS).mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(b"a.png").hexdigest()[:32]
        (out / PARTS / f"{digest}.part").write_bytes(b"evil")
        line = {"state": "done", "picture": "a.png", "output": output, "seed": 0, "bytes": 4}
        line["sha256"] = hashlib.sha256(b"evil").hexdigest()
        (out / NAME).write_text(json.dumps({"state": "run"}) + "\n" + json.dumps(line) + "\n")
        with open_journal(out, {}, resume=True) as journal:
            assert not journal.settle("a.png", "a.png")
        assert victim.read_text() == "precious"
        assert not (out / "a.png").exists()


def test_a_part_or_journal_that_is_a_link_leads_nowhere(here):
    victim = here / "victim.txt"
    victim.write_text("precious")
    out = here / "out"
    (out / PARTS).mkdir(parents=True)
    (out / PARTS / f"{hashlib.sha256(b'a.png').hexdigest()[:32]}.part").symlink_to(victim)
    with open_journal(out, {}) as journal:
        assert journal.commit(Done("a.png", "a.png", 0, "", 0), b"whole", out / "a.png") is None
    assert (out / "a.png").read_bytes() == b"whole"
    (out / NAME).unlink()
    (out / NAME).symlink_to(victim)
    with pytest.raises(UsageError, match="link"):
        open_journal(out, {}, force=True).__enter__()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("entry", [{"output": 5}, {"picture": ["a"]}, {"seed": "x"}, {"bytes": None}, {"sha256": 1}])
def test_a_journal_of_other_types_is_damaged(here, entry):
    out = here / "out"
    out.mkdir()
    line = {"state": "done", "picture": "a", "output": "a", "seed": 0, "sha256": "", "bytes": 0} | entry
    (out / NAME).write_text(json.dumps(line) + "\n")
    with pytest.raises(Exception, match="line 1 is damaged"):
        open_journal(out, {}, resume=True).__enter__()


@pytest.mark.parametrize(
    "names",
    [("a.jpg", "a.png", "a.png.gif"), ("a.jpg", "A.png", "a.PNG.gif"), ("a.jpg", "a.png", "a.png.gif", "a.png-2.gif"),
     ("e\u0301.png", "\u00e9.png"), ("a.jpg", "a.png", "a.jpg.gif", "a.jpg.webp")],
)  # fmt: skip
def test_no_two_results_of_a_batch_have_one_name(here, names):
    Path("in").mkdir()
    for name in names:
        Path("in", name).write_bytes(b"x")
    outputs = [item.output.casefold() for item in items(listing(Path("in")), Path("in"), Path("out"))]
    assert len(set(outputs)) == len(outputs) == len(os.listdir("in"))


def test_a_named_pipe_is_no_picture_and_no_mask(here):
    Path("in").mkdir()
    os.mkfifo("in/p.png")
    os.mkfifo("in/x.mask.png")
    found = listing(Path("in"))
    assert found.pictures == []
    assert found.unreadable == {"p.png": "is not a regular file", "x.mask.png": "is not a regular file"}
    item = Item("x.png", "x.png", "o.png", "o.png", Masks().of(Path("x.png"), Path("in"))[0])
    assert "not a regular file" in (Work(Chain((Stage((Inpaint(),)),)))(item).error or "")


def test_a_hook_that_ends_the_process_is_named():
    def leaves():
        raise SystemExit(5)

    with pytest.raises(HookError, match="plugin inpaint: begin raised SystemExit: 5"):
        called(Inpaint(mask="box:1,1,2,2"), "begin", leaves)


# ----------------------------------------------------------------------------------------------- recipes, terminal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("editkit: &a [x]\nstages: [*a]", "alias"),
        ("editkit: 1\nstages: &q [*q]", "alias"),
        ("editkit: 1\nstages: [" + "x," * 30_000 + "]", "values"),
        ("editkit: 0x" + "f" * 5000, "got int"),
        ("editkit: " + "[" * 5000, "YAML"),
    ],
)
def test_a_recipe_is_bounded(text, message):
    with pytest.raises(RecipeError, match=message) as raised:
        recipe.from_yaml(text)
    assert len(str(raised.value)) < 500


def test_messages_show_the_beginning_of_a_value():
    assert short("a" * 1000) == "'" + "a" * 76 + "..."
    assert short(10**5000) == "int"
    assert short(5) == "5"


def test_nothing_a_terminal_obeys_is_printed(here, capsys):
    assert printable("a\x1b[2J\x9b\u202e\nb") == "a?[2J??\nb"
    assert printable("a\nb", newlines=False) == "a?b"
    evil = "\x1b[2J\u202e"
    forged = Provenance(recipe={"mask": evil}, picture=evil, versions={evil: evil})
    Picture.read("x.png").write("f.png", provenance=forged)
    found = read_provenance("f.png")
    assert found is not None
    for words in ([], ["--json"], ["--recipe"]):
        run(["show", "f.png", *words])
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err)


def test_uncrop_asks_for_memory_first():
    small = Picture(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(PictureError, match="GiB"):
        Uncrop(left=20_000, right=20_000, top=20_000, bottom=20_000).open(small, lambda text: None)


def test_training_reads_no_format_that_runs_programs(here):
    from editkit.training.classifier import _read_square
    from editkit.training.pictures import load_collection

    Path("im").mkdir()
    Path("x.png").rename("im/x.png")
    Path("im/eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EOF\n")
    os.mkfifo("im/pipe.png")
    found = load_collection(Path("im"), 16)
    assert [p.name for p in found.training] == ["x.png"]
    assert sorted(s.name for s in found.skipped) == ["eps.jpg", "pipe.png"]
    Picture(np.full((16, 16, 3), 0xC805, np.uint16)).write("deep.png")
    Picture(np.full((16, 16, 3), 0xC8, np.uint8)).write("flat.png")
    assert float((_read_square(Path("deep.png"), 16) - _read_square(Path("flat.png"), 16)).abs().max()) < 0.01


@pytest.mark.parametrize("name", ["m" * 5000, "a/" + "m" * 300, "a\0b"])
def test_a_name_longer_than_a_file_can_have_is_not_found(name):
    from editkit.models import describe

    with pytest.raises(ModelError, match="not found"):
        describe(name, offline=True)
