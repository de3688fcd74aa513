"""`editkit score`: the library's own figures, intervals that cover, files that are wanted, what is refused."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from editkit.batch.metrics import Files, metric_function, set_distance
from editkit.batch.scoring import interval, read_prompts, score
from editkit.cli import run
from editkit.errors import EditkitError
from editkit.pictures.picture import Picture

torchmetrics = pytest.importorskip("torchmetrics")


def picture(seed, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Ten results, each beside its reference; the noise in them grows."""
    for name in ("results", "reference"):
        (tmp_path / name).mkdir()
    for k in range(10):
        truth = picture(k)
        noise = np.random.default_rng(100 + k).normal(0.0, 3.0 + 2.0 * k, truth.shape)
        Image.fromarray(truth).save(tmp_path / "reference" / f"p{k}.png")
        Image.fromarray(np.clip(truth + noise, 0, 255).astype(np.uint8)).save(tmp_path / "results" / f"p{k}.png")
    lines = ["picture,prompt,category", *(f'p{k}.png,"a, b",{"even" if k % 2 == 0 else "odd"}' for k in range(10))]
    (tmp_path / "prompts.csv").write_text("\n".join(lines))
    return tmp_path


def unit(path):
    return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 255.0).permute(2, 0, 1)[None]


def test_psnr_and_ssim_are_the_librarys_and_those_of_scikit_image(folders):
    skimage = pytest.importorskip("skimage.metrics")
    rows = score(folders / "results", folders / "reference").rows
    assert [row.name for row in rows] == [f"p{k}" for k in range(10)]
    psnr = torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0)
    ssim = torchmetrics.image.StructuralSimilarityIndexMeasure(data_range=1.0)
    for row in rows:
        a, b = unit(row.result), unit(row.reference)
        assert row.figures["psnr"] == pytest.approx(float(psnr(a, b)), abs=1e-4)
        assert row.figures["ssim"] == pytest.approx(float(ssim(a, b)), abs=1e-5)
        one, two = (np.asarray(Image.open(path)) for path in (row.reference, row.result))
        assert row.figures["psnr"] == pytest.approx(skimage.peak_signal_noise_ratio(one, two), abs=1e-3)


def test_totals_are_means_of_all_and_of_every_category(folders):
    found = score(folders / "results", folders / "reference", metrics=["psnr"], prompts=folders / "prompts.csv")
    figures = [row.figures["psnr"] for row in found.rows]
    assert [(t.category, t.n) for t in found.totals] == [("", 10), ("even", 5), ("odd", 5)]
    for total, wanted in zip(found.totals, (figures, figures[::2], figures[1::2]), strict=True):
        assert total.value == pytest.approx(np.mean(wanted))
        assert min(wanted) <= total.low < total.value < total.high <= max(wanted)


def test_the_interval_covers():
    """Of means of 40 exponential values: 95 % say 0.95; the binomial's own deviation over 300 tries is 0.013."""
    rng = np.random.default_rng(0)
    found = [interval(rng.exponential(2.0, 40).tolist(), seed) for seed in range(300)]
    assert 0.88 <= np.mean([low <= 2.0 <= high for low, high in found]) <= 0.99


def test_an_interval_of_few_or_equal_values():
    assert all(map(math.isnan, interval([1.0, 2.0])))
    assert all(map(math.isnan, interval([1.0, 2.0, math.inf, 3.0])))
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


class Means(torch.nn.Module):
    """Six features of a picture: they stand for Inception's."""

    num_features = 6

    def forward(self, x):
        x = x.double().flatten(2)
        return torch.cat([x.mean(2), x.std(2)], 1)


def features(path):
    return Means()(unit(path) * 255.0)[0]


def test_fid_and_kid_of_features_are_the_librarys(folders):
    mine = torch.stack([features(path) for path in sorted((folders / "results").iterdir())])
    theirs = torch.stack([features(path) for path in sorted((folders / "reference").iterdir())])
    fid = torchmetrics.image.fid.FrechetInceptionDistance(feature=Means(), normalize=False).set_dtype(torch.float64)
    for real in (True, False):
        for path in sorted((folders / ("reference" if real else "results")).iterdir()):
            fid.update((unit(path) * 255.0).round().byte(), real=real)
    assert set_distance("fid", mine, theirs) == pytest.approx(float(fid.compute()), rel=1e-3)
    kid = torchmetrics.image.kid.KernelInceptionDistance(feature=Means(), subsets=1, subset_size=10)
    for real in (True, False):
        for path in sorted((folders / ("reference" if real else "results")).iterdir()):
            kid.update((unit(path) * 255.0).round().byte(), real=real)
    assert set_distance("kid", mine, theirs) == pytest.approx(float(kid.compute()[0]), rel=1e-3)


def test_fid_of_sets_says_that_few_are_few(folders):
    told = []
    look = lambda picture: Means()(torch.tensor(picture.pixels).permute(2, 0, 1)[None])[0]  # noqa: E731
    found = score(folders / "results", folders / "reference", metrics=["fid", "kid"], seen=look, notify=told.append)
    assert [t.metric for t in found.totals] == ["fid", "kid"]
    assert math.isnan(found.totals[0].low)
    assert "fid of 10 pictures is larger" in told[0]
    same = score(folders / "results", folders / "results", metrics=["fid"], seen=look)
    assert same.totals[0].value == pytest.approx(0.0, abs=1e-6)


def test_the_jackknife_gives_an_interval_that_covers():
    """Of the fid between samples of two Gaussians in two dimensions, whose distance is 1; its bias is counted in."""
    from editkit.batch.scoring import _totals_of_sets

    covered, g = 0, torch.Generator().manual_seed(0)
    for _ in range(60):
        a, b = (torch.randn(200, 2, generator=g, dtype=torch.float64) for _ in range(2))
        b[:, 0] += 1.0
        (total,) = _totals_of_sets([None] * 200, list(a), list(b), ["fid"])
        covered += total.low <= 1.0 <= total.high
    assert covered >= 48


def test_lpips_is_the_librarys_with_weights_from_a_file(tmp_path, monkeypatch):
    """Random convolutions: this proves that a file is read and where it goes, not what people see."""
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips
    from torchmetrics.functional.image import lpips as module

    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    torch.save({k: v for k, v in network.state_dict().items() if "features" in k}, tmp_path / "alexnet.pth")
    figure = metric_function("lpips", Files(lpips=str(tmp_path / "alexnet.pth")))
    monkeypatch.setattr(module, "_get_tv_model_features", lambda net, pretrained: network.features)
    as_tensor = lambda x: torch.from_numpy(x / np.float32(255.0)).permute(2, 0, 1)[None]  # noqa: E731
    for k in range(10):
        a, b = picture(k, 64, 64), picture(k + 1, 64, 64)
        wanted = float(lpips(as_tensor(a), as_tensor(b), net_type="alex", normalize=True))
        assert wanted > 0.0
        assert figure(Picture(a), Picture(b), None) == pytest.approx(wanted, rel=1e-4)
    assert figure(Picture(a), Picture(a), None) == 0.0


def test_the_command_writes_a_table_a_file_and_a_sheet(folders, capsys):
    words = ["score", str(folders / "results"), "--reference", str(folders / "reference"), "--prompts",
             str(folders / "prompts.csv")]  # fmt: skip
    assert run([*words, "-o", str(folders / "scores.csv"), "--sheet", str(folders / "sheet.png")]) == 0
    assert "even" in capsys.readouterr().out
    with open(folders / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["category"] for line in lines] == ["even", "odd"] * 5
    assert lines[0]["prompt"] == "a, b"
    assert float(lines[0]["psnr"]) > float(lines[9]["psnr"])
    assert Image.open(folders / "sheet.png").width > 10 * 48
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["pictures"]) == 10
    assert found["totals"][0]["low"] < found["totals"][0]["value"] < found["totals"][0]["high"]
    assert run([*words, "-o", str(folders / "scores.csv")]) == 1
    assert "scores.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        ("lpips", r"--lpips-weights FILE, torchvision's alexnet-owt-7be5be79.pth"),
        ("clip", r"--clip-model FILE, a folder with open_clip_config.json"),
        ("fid", r"--inception FILE, torch-fidelity's weights-inception-2015-12-05-6726825d.pth"),
        ("kid", r"--inception FILE"),
    ],
)
def test_a_metric_says_which_file_it_wants(folders, metric, wanted):
    with pytest.raises(EditkitError, match=wanted):
        score(folders / "results", folders / "reference", metrics=[metric], prompts=folders / "prompts.csv")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--metrics", "pnsr"], "'pnsr' is none of psnr, ssim, lpips, clip, fid, kid; is psnr meant?"),
        (["--metrics", "psnr,psnr"], "name each metric once"),
        (["--metrics", ","], "name each metric once"),
        (["--metrics", "clip"], "give --prompts"),
        (["--prompts", "none.csv"], "cannot be read as CSV"),
        (["--prompts", "heads.csv"], "columns picture, and prompt or category, are needed; got name, prompt"),
        (["--prompts", "stranger.csv"], "holds no picture called p99"),
        (["--prompts", "twice.csv"], "row 3 names p1 again"),
        (["--prompts", "root.csv"], "row 2 names no picture"),
        (["--metrics", "clip", "--prompts", "empty.csv"], "p1 has no prompt, which clip needs"),
        (["--metrics", "lpips", "--lpips-weights", "none.pth"], "--lpips-weights none.pth: is not there"),
        (["--metrics", "lpips", "--lpips-weights", "empty.csv"], "cannot be read as weights"),
        (["--metrics", "fid", "--inception", "empty.csv"], "cannot be read as weights"),
        (["--reference", "none"], "none: is not there"),
        (["--reference", "bare"], "bare: contains no pictures"),
        (["--reference", "less"], "has no picture called p1"),
        (["--reference", "small"], "is 48x40, and its reference small/p0.png 20x20"),
        (["--reference", "small/p0.png"], "is one picture"),
    ],
)
def test_bad_input_is_one_line(folders, monkeypatch, capsys, words, line):
    monkeypatch.chdir(folders)
    for name, text in {
        "heads.csv": "name,prompt\na,b", "stranger.csv": "picture,category\np99,x", "empty.csv": "picture,prompt\np1,",
        "twice.csv": "picture,prompt\np1,a\np1.png,b", "root.csv": "picture,prompt\n/,a",
    }.items():  # fmt: skip
        (folders / name).write_text(text)
    for name, many, side in (("bare", 0, 0), ("less", 1, 40), ("small", 10, 20)):
        (folders / name).mkdir()
        for k in range(many):
            Image.fromarray(picture(k, side, side if name == "small" else 48)).save(folders / name / f"p{k}.png")
    given = ["score", "results", *words, *([] if "--reference" in words else ["--reference", "reference"])]
    assert run(given) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert line in said[0]


def test_without_a_reference_and_with_results_too_small(folders):
    with pytest.raises(EditkitError, match="psnr compares with a reference"):
        score(folders / "results")
    Image.fromarray(picture(0, 8, 8)).save(folders / "tiny.png")
    with pytest.raises(EditkitError, match="ssim needs 11 pixels"):
        score(folders / "tiny.png", folders / "tiny.png")


def test_prompts_of_a_spreadsheet(folders):
    (folders / "excel.csv").write_bytes("\ufeffpicture;category\r\n".replace(";", ",").encode() + b"a/p1.PNG,x\r\n")
    assert read_prompts(folders / "excel.csv") == {"a/p1": ("", "x")}


def test_one_picture_beside_another(folders):
    found = score(folders / "results" / "p3.png", folders / "reference" / "p4.png", metrics=["psnr"])
    assert found.totals[0].n == 1
    assert math.isnan(found.totals[0].low)
