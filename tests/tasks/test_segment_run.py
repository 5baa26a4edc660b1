"""A fine-tuning for segmentation from end to end: it learns, resumes exactly, is evaluated, answers for windows."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from segment_worlds import NAMES, SETTINGS, save, scene, train, write_pairs

from selectivemae.cli.main import main
from selectivemae.core.config import read_recipe
from selectivemae.core.errors import CheckpointError, ConfigError, DataError, WeightsError
from selectivemae.core.records import read_metrics
from selectivemae.data.batch import Batch
from selectivemae.models import vit
from selectivemae.tasks.common import NoiseKeys
from selectivemae.tasks.segment.classes import IGNORED, PADDED
from selectivemae.tasks.segment.config import EvaluateConfig, MaskSettings, SegmentConfig
from selectivemae.tasks.segment.data import open_pairs, rows_of
from selectivemae.tasks.segment.evaluate import Predictor, evaluate_files, evaluate_run, judge, write_evaluation
from selectivemae.tasks.segment.model import SegmentObjective, Shape, build_segmenter, load_segmenter
from selectivemae.tasks.segment.pictures import coloured
from selectivemae.tasks.segment.predictor import load_predictor


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny encoder that is tinier."""
    monkeypatch.setitem(vit.SIZES, "tiny", (4, 32, 2, 32, 2))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with ten pairs, and a run on it."""
    root = tmp_path_factory.mktemp("segment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.SIZES, "tiny", (4, 32, 2, 32, 2))
        train(write_pairs(root / "data"), root / "run", steps=30, eval_every=100.0)
    return root / "data", root / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_it_learns_and_leaves_a_folder(world: tuple[Path, Path]) -> None:
    _, run = world
    found = json.loads((run / "evaluation" / "figures.json").read_text())
    assert found["miou"] > 60  # blocks of three colours; one class everywhere would be under 20
    assert found["images"] == 2
    assert {f.name for f in (run / "evaluation").iterdir()} == {
        "figures.json", "per_class.csv", "confusion.png", "pictures.png"
    }  # fmt: skip
    assert [line.split(",")[0] for line in (run / "evaluation" / "per_class.csv").read_text().split()[1:]] == [*NAMES]
    assert (run / "split.csv").read_text().count("val") == 2
    (last,) = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"]
    assert last["miou"] == found["miou"]
    picture = np.asarray(Image.open(run / "evaluation" / "pictures.png"))
    assert picture.std() > 20


def test_the_file_is_the_model(world: tuple[Path, Path]) -> None:
    """What is loaded judges as the run did, also on its own split given as a table, and answers for windows."""
    data, run = world
    found = json.loads((run / "evaluation" / "figures.json").read_text())
    config = EvaluateConfig.build({"device": "cpu", "precision": "fp32"})
    assert evaluate_run(run, config).as_dict() == found
    other = EvaluateConfig.build({"data": str(data), "split": run / "split.csv", "precision": "fp32", "device": "cpu"})
    assert evaluate_run(run, other).confusion.tolist() == found["confusion"]
    predictor = load_predictor(run, "cpu", "fp32")
    assert (predictor.task, predictor.classes, predictor.channels, predictor.size) == ("segment", NAMES, 3, 32)
    pixels, numbers = scene(77, 32, 32)
    window = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    scores = predictor.scores(window)
    assert scores.shape == (1, 3, 32, 32)
    assert (scores.argmax(1)[0].numpy() == numbers).mean() > 0.7
    assert torch.equal(predictor.inner.numbers(pixels), scores[0].argmax(0).to(torch.uint8))
    small = predictor.scores(window[..., :20, :25])
    assert small.shape == (1, 3, 20, 25)


@pytest.mark.parametrize("stop", [3])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    """Weights, running figures of the norms and losses, to the bit, in the middle of an epoch."""
    data = write_pairs(tmp_path / "data", 7)
    common = {"drop_path": 0.2, "aux_weight": 0.4, "checkpoint_steps": stop}
    train(data, tmp_path / "whole", **common)
    with pytest.MonkeyPatch.context() as patch:
        import selectivemae.engine.hooks.records as records

        after = records.RecordHook.after_step

        def dies(self, state) -> None:
            after(self, state)
            if state.step == stop + 1:
                raise KeyboardInterrupt

        patch.setattr(records.RecordHook, "after_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "cut", **common)
    train(data, tmp_path / "cut", resume=True, **common)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    ledgers = [
        [(m["step"], m["ledger"], m["loss"]) for m in read_metrics(tmp_path / run / "metrics.jsonl") if "ledger" in m]
        for run in ("whole", "cut")
    ]
    assert ledgers[0] == ledgers[1]
    with pytest.raises(CheckpointError, match="trained with head_width 8, not 4"):
        train(data, tmp_path / "cut", resume=True, **common | {"head_width": 4})


def test_the_loss_counts_all_pixels() -> None:
    """Against loops over pixels of logits made large: cross-entropy summed over what is labelled, over all pixels."""
    segmenter = build_segmenter("random:vit_tiny_patch8", NAMES, ((0, 0, 0),) * 3, 32, Shape(24, head_width=8))
    objective = SegmentObjective(
        segmenter, NoiseKeys(), weight_decay=0.05, layer_decay=0.9, class_weights=(1.0, 2.0, 0.5)
    )
    segmenter.model.eval()
    pixels, numbers = scene(3, 32, 32)
    mask = np.stack([numbers, numbers])
    mask[0, :4], mask[1, :, 20:] = IGNORED, PADDED
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    images[1, :, :, 20:] = 99  # whatever is there, padding is what is 0 after normalisation
    batch = Batch(images, torch.arange(2), torch.arange(2), torch.ones(2), torch.from_numpy(mask))
    with torch.no_grad():
        loss = objective.step(batch, 0.0).loss
        cut = segmenter.logits(images[1:, :, :, :20])
    assert loss.shape == (2,)
    with torch.no_grad():
        wanted = (segmenter.logits(images[:1])[0], cut[0])
    for logits, labels, value in zip(wanted, mask, loss, strict=True):
        total, logs = 0.0, F.log_softmax(logits, dim=0)
        for y, x in np.ndindex(labels.shape):
            if labels[y, x] < PADDED:
                total -= (1.0, 2.0, 0.5)[labels[y, x]] * float(logs[labels[y, x], y, x])
        assert float(value) == pytest.approx(total / 32 / 32, rel=1e-4)


def test_layer_decay_as_published() -> None:
    """E.9: stem 0.9^(L+1), last block 0.9, pyramid and head 1; positions, biases and norms without weight decay."""
    segmenter = build_segmenter("random:vit_tiny_patch8", NAMES, ((0, 0, 0),) * 3, 32, Shape(24, head_width=8))
    objective = SegmentObjective(segmenter, NoiseKeys(), weight_decay=0.05, layer_decay=0.9)
    scales = {name: (group["lr_scale"], group["weight_decay"]) for group in objective.parameter_groups()
              for name in group["names"]}  # fmt: skip
    assert scales["backbone.encoder.patch_embed.proj.weight"] == (pytest.approx(0.9**5), 0.05)
    assert scales["backbone.encoder.pos_embed"] == (pytest.approx(0.9**5), 0.0)
    assert scales["backbone.encoder.blocks.0.attn.qkv.weight"] == (pytest.approx(0.9**4), 0.05)
    assert scales["backbone.encoder.blocks.3.mlp.fc1.bias"] == (pytest.approx(0.9), 0.0)
    assert scales["backbone.scale.1.weight"] == scales["head.fusion.0.weight"] == (1.0, 0.05)
    assert scales["head.fusion.1.weight"] == (1.0, 0.0)
    assert len(scales) == len(list(segmenter.model.parameters()))
    whole = torch.rand(2, 3, 32, 32)
    segmenter.model.train()(whole, torch.tensor([1, 2])).sum().backward()
    assert [name for name, p in segmenter.model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("name", "classes"), [("loveda_samples", "loveda"), ("isprs_potsdam", "isprs")])
def test_real_imagery_is_evaluated_and_drawn(shared_data: Path, tmp_path: Path, name: str, classes: str) -> None:
    """A fresh model knows nothing, but counts every labelled pixel once, and the sheet shows the labels' colours."""
    pairs = open_pairs(MaskSettings.build({"data": str(shared_data / name), "classes": classes}))
    names, colours = pairs.classes.names, pairs.classes.colours
    segmenter = build_segmenter("random:vit_tiny_patch8", names, colours, 256, Shape(256, head_width=8))
    rows = rows_of(pairs, "val")
    judged = judge(Predictor(segmenter, torch.device("cpu"), "fp32"), pairs, rows)
    found = write_evaluation(tmp_path / "evaluation", judged, segmenter)
    wanted = sum(np.bincount(pairs.mask(int(row)).ravel(), minlength=256)[: len(names)] for row in rows)
    assert found.pixels == tuple(wanted)
    (shown,) = judged.shown
    assert shown.label.shape == (320, 320)
    seen = coloured(shown.label, colours).reshape(-1, 3)
    assert {tuple(colour) for colour in np.unique(seen, axis=0).tolist()} <= {*colours, (128, 128, 128)}
    assert np.asarray(Image.open(tmp_path / "evaluation" / "pictures.png")).std() > 20


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"class_weights": (1.0, 2.0)}, r"--class-weights has 2 numbers for 3 classes"),
        ({"crop": 40}, "--crop 40 is not a multiple of 16"),
        ({"stride": 33}, "leaves gaps between windows"),
        ({"scale": (2.0, 1.0)}, "two ascending factors"),
        ({"warmup_steps": 6}, "leaves nothing of --steps 6"),
        ({"batch_size": 1}, "--batch-size"),
        ({"weights": None}, "no weights given"),
    ],
)
def test_bad_settings(tmp_path: Path, given: dict, complaint: str) -> None:
    data = write_pairs(tmp_path / "data", 3)
    with pytest.raises(ConfigError, match=complaint):
        train(data, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_other_classes_and_no_model(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = world
    (tmp_path / "c.txt").write_text("ground\nhouse\nsea")
    with pytest.raises(DataError, match=r"knows the classes ground, house, water; .* has ground, house, sea"):
        evaluate_run(run, EvaluateConfig.build({"data": str(data), "classes": str(tmp_path / "c.txt")}))
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load_segmenter(tmp_path)


def test_published_settings() -> None:
    """downstream.md, D."""
    loveda = SegmentConfig.build(read_recipe("finetune", "segment-loveda"))
    spacenet = SegmentConfig.build(read_recipe("finetune", "segment-spacenet"))
    assert (loveda.crop, loveda.window_stride, loveda.train_on) == (512, 384, "all")
    assert (spacenet.crop, spacenet.window_stride, spacenet.train_on) == (384, 256, "train")
    for recipe in (loveda, spacenet):
        assert (recipe.lr, recipe.min_lr, recipe.steps, recipe.warmup_steps) == (6e-5, 0, 80_000, 1500)
        assert (recipe.batch_size, recipe.layer_decay, recipe.weight_decay, recipe.betas) == (
            8,
            0.9,
            0.05,
            (0.9, 0.999),
        )
        assert (recipe.scale, recipe.resize, recipe.most, recipe.turns) == ((0.5, 2.0), "crop", 0.75, "horizontal")
        assert (recipe.photometric, recipe.aux_weight, recipe.head_width, recipe.precision) == (True, 0, 512, "fp32")
        assert (recipe.drop_path, recipe.clip_grad) == (0.1, None)


def test_masks_against_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``evaluate --predictions``: equal masks are perfect, PNG or GeoTIFF; what does not fit is said in one line."""
    for i in range(3):
        save(tmp_path / "true" / f"{i}.png", scene(i)[1])
        save(tmp_path / "said" / f"{i}.{'tif' if i else 'png'}", scene(i)[1])
    assert evaluate_files(tmp_path / "said", tmp_path / "true", tmp_path / "out").miou == 100
    assert (tmp_path / "out" / "figures.json").is_file()
    (tmp_path / "true" / "classes.txt").write_text("\n".join(NAMES))
    swapped = np.array([1, 0, 2], np.uint8)[scene(0)[1]]
    save(tmp_path / "said" / "0.png", swapped)
    arguments = ["evaluate", "--task", "segment", "--predictions", str(tmp_path / "said"), "--ground-truth"]
    assert main([*arguments, str(tmp_path / "true"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    pixels = np.bincount(np.concatenate([scene(i)[1].ravel() for i in range(3)]))
    first = np.bincount(scene(0)[1].ravel())
    assert found["confusion"][0] == [pixels[0] - first[0], first[0], 0]
    assert found["aacc"] == pytest.approx(100 - 100 * (first[0] + first[1]) / pixels.sum())
    for array, complaint in (
        (np.full((40, 48), 9, np.uint8), "0.png: value 9 at row 0, column 0 is none of the classes"),
        (np.full((40, 48), 255, np.uint8), "0.png: 1920 labelled pixels have no class"),
        (np.zeros((4, 5), np.uint8), r"0.png has (4, 5) rows and columns"),
    ):
        save(tmp_path / "said" / "0.png", array)
        assert main([*arguments, str(tmp_path / "true")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert complaint in line
    (tmp_path / "said" / "0.png").unlink()
    assert main([*arguments, str(tmp_path / "true")]) == 2
    assert "has no mask for 1 names: 0" in capsys.readouterr().err


def test_what_masks_against_masks_mean_by_their_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Buildings as 255 are no ignored pixels, on either side; a class that is only predicted counts as 0."""
    house = (scene(0)[1] == 1).astype(np.uint8)
    guess = (scene(1)[1] == 1).astype(np.uint8)
    both, either = (house & guess).sum(), (house | guess).sum()
    iou = 100 * both / either, 100 * (house.size - either) / (house.size - both)
    arguments = ["evaluate", "--task", "segment", "--predictions", str(tmp_path / "said"), "--ground-truth"]
    for true, said in ((1, 1), (255, 1), (255, 255)):
        save(tmp_path / "true" / "a.png", house * np.uint8(true))
        save(tmp_path / "said" / "a.png", guess * np.uint8(said))
        assert evaluate_files(tmp_path / "said", tmp_path / "true").miou == pytest.approx(sum(iou) / 2)
    save(tmp_path / "true" / "a.png", house)
    assert main([*arguments, str(tmp_path / "true")]) == 2  # 255 among labels of 0 and 1 is no class
    assert "labelled pixels have no class" in capsys.readouterr().err
    save(tmp_path / "said" / "a.png", np.where(guess & (house == 0), 2, house).astype(np.uint8))
    found = evaluate_files(tmp_path / "said", tmp_path / "true")
    assert found.iou[2] == 0
    assert found.miou == pytest.approx(sum(v for v in found.iou if v is not None) / 3)
    for path in (tmp_path / "true", tmp_path / "said"):
        save(path / "a.png", scene(2)[1] + np.uint8(1))
    assert main([*arguments, str(tmp_path / "true"), "--classes", "loveda", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["iou"])[:2] == ["background", "building"]
    assert main([*arguments, str(tmp_path / "true"), "--split", "28"]) == 2
    assert "--split belongs to a RUN" in capsys.readouterr().err


def test_loveda_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command to the server's zip: class numbers from 0 on, named as the images."""
    for split, name in (("Train/Urban", 1), ("Train/Rural", 2), ("Val/Rural", 3), ("Test/Urban", 4), ("Test/Rural", 5)):
        pixels, numbers = scene(name, 64, 40)
        save(tmp_path / "d" / split / "images_png" / f"{name}.png", pixels)
        if not split.startswith("Test"):
            save(tmp_path / "d" / split / "masks_png" / f"{name}.png", numbers + 1)
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(SETTINGS | {"steps": 2, "train_on": "all"}))
    arguments = ["--data", str(tmp_path / "d"), "--out", str(tmp_path / "run"), "--config", str(config)]
    assert main(["finetune", "segment", *arguments]) == 0
    assert "on 1 val images after 2 steps" in capsys.readouterr().out
    zipped = tmp_path / "test.zip"
    assert main(["evaluate", str(tmp_path / "run"), "--submission", str(zipped), "--device", "cpu"]) == 0
    assert "mIoU" in capsys.readouterr().out
    with zipfile.ZipFile(zipped) as archive:
        assert sorted(archive.namelist()) == ["4.png", "5.png"]
        mask = np.asarray(Image.open(io.BytesIO(archive.read("4.png"))))
    assert mask.shape == (64, 40)
    assert mask.dtype == np.uint8
    assert mask.max() < 7
