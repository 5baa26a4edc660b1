"""Whole fine-tunings: they learn, resume exactly, evaluate what they should, and say what is wrong with data."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classify_worlds import train, write_classes, write_image
from PIL import Image
from safetensors.torch import load_file

from selectivemae.cli.main import main
from selectivemae.core.config import read_recipe
from selectivemae.core.errors import CheckpointError, ConfigError, DataError
from selectivemae.core.records import read_metrics
from selectivemae.data.batch import Position
from selectivemae.data.loader import cut
from selectivemae.models import vit
from selectivemae.tasks.classify.config import ClassifyConfig, EvaluateConfig
from selectivemae.tasks.classify.evaluate import evaluate_run
from selectivemae.tasks.order import TrainingOrder

QUIET: dict[str, Any] = {"rand_augment": "none", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_tiny of two narrow blocks in every call."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == kind]


def test_it_learns_and_leaves_everything_behind(tmp_path: Path) -> None:
    data, out = write_classes(tmp_path / "data", 12), tmp_path / "run"
    result = train(data, out, epochs=12.0, **QUIET)
    assert result.oa > 90
    assert result.oa_deviation is None
    # 8 of 12 images a class to train on: 3 batches of 8 an epoch.
    assert result.runs[0].steps == 36
    assert result.runs[0].images == 12
    evaluated = records(out, "eval")
    assert [r["epoch"] for r in evaluated] == [2, 4, 6, 8, 10, 12]
    figures = json.loads((out / "evaluation" / "figures.json").read_text())
    assert figures["oa"] == evaluated[-1]["oa"] == result.oa
    with open(out / "evaluation" / "predictions.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 12
    assert 100 * np.mean([r["label"] == r["true_label"] for r in rows]) == pytest.approx(result.oa)
    assert all(
        sum(float(r[f"score_{c}"]) for c in ("blue", "green", "red")) == pytest.approx(1, abs=1e-4) for r in rows
    )
    with Image.open(out / "evaluation" / "confusion.png") as picture:
        assert min(picture.size) > 100
    # What evaluate says of the run, with the run's own split, is what the run said.
    found = evaluate_run(out, EvaluateConfig(precision="fp32"), tmp_path / "again")
    assert found.as_dict() == figures
    assert found.oa == pytest.approx(evaluate_run(out, EvaluateConfig(data=str(data), precision="fp32")).oa)
    assert evaluate_run(out, EvaluateConfig(part="all", precision="fp32")).images == 36


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(data, whole, checkpoint_steps=1)
    train(data, stopped, checkpoint_steps=1, keep=99)
    # As if it had been killed after step 3 of 8, in the middle of an epoch.
    for step in range(4, 9):
        folder = stopped / "checkpoints" / f"step-{step:08d}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    torch.manual_seed(1234)
    np.random.seed(99)
    train(data, stopped, resume=True, checkpoint_steps=1)
    a, b = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert [r["loss"] for r in records(whole, "train")] == [r["loss"] for r in records(stopped, "train")]
    assert [r["step"] for r in records(stopped, "eval")] == [4, 8]
    # Once more: nothing is left to do, and the result is the same.
    again = train(data, stopped, resume=True)
    assert again.oa == records(whole, "eval")[-1]["oa"]


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data")
    train(data, tmp_path / "one", epochs=1.5)
    train(data, tmp_path / "parts", epochs=1.5, micro_batch=3)
    first, second = (records(tmp_path / name, "train") for name in ("one", "parts"))
    assert [r["ledger"] for r in first] == [r["ledger"] for r in second]
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in second], rel=1e-5)


@pytest.mark.slow
def test_workers_make_the_same_images(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data")
    for workers in (0, 1):
        train(data, tmp_path / f"run{workers}", epochs=1.5, workers=workers)
    first, second = (records(tmp_path / name, "train") for name in ("run0", "run1"))
    assert [r["loss"] for r in first] == [r["loss"] for r in second]


def test_several_seeds(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(write_classes(tmp_path / "data", 4), out, epochs=2.0, seeds=2, seed=5)
    assert [run.seed for run in result.runs] == [5, 6]
    values = [run.oa for run in result.runs]
    assert result.oa == pytest.approx(np.mean(values))
    assert result.oa_deviation == pytest.approx(np.std(values, ddof=1))
    assert json.loads((out / "summary.json").read_text())["runs"][1]["seed"] == 6
    first, second = (load_file(out / f"seed-{n}" / "model.safetensors") for n in (5, 6))
    assert not torch.equal(first["head.weight"], second["head.weight"])


@pytest.mark.parametrize(("batch", "drop", "count"), [(4, True, 8), (4, False, 10), (16, True, 10), (5, True, 10)])
def test_the_incomplete_batch_of_an_epoch(batch: int, drop: bool, count: int) -> None:
    index = np.arange(100, 110)
    order = TrainingOrder(index, 3, batch, drop)
    assert order.count(0) == count
    position, seen = Position(), []
    for _ in range(count // batch or 1):
        part = cut(order, 3, position, batch)
        seen += part.index.tolist()
        position = part.after
    if batch <= 10 and drop:
        assert position == Position(1, 0)
        assert len(set(seen)) == count
    assert set(seen) <= set(index.tolist())


def test_the_presets_are_those_of_the_protocol() -> None:
    """downstream.md, A.2 to A.4: written out here, so that neither a recipe nor a default drifts."""
    large, small = (ClassifyConfig.build(read_recipe("finetune", f"classify-{n}")) for n in (1024, 64))
    assert (large.batch_size, large.epochs) == (1024, 100)
    assert (small.batch_size, small.epochs) == (64, 200)
    for recipe in (large, small):
        assert (recipe.base_lr, recipe.min_lr, recipe.warmup_epochs) == (1e-3, 1e-6, 5)
        assert (recipe.weight_decay, recipe.layer_decay, recipe.betas) == (0.05, 0.75, (0.9, 0.999))
        assert (recipe.mixup, recipe.cutmix, recipe.mix_share, recipe.smoothing) == (0.8, 1.0, 1.0, 0.1)
        assert (recipe.rand_augment, recipe.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
        assert (recipe.crop_scale, recipe.crop_share, recipe.turns) == ((0.08, 1.0), 0.875, "horizontal")
        assert (recipe.drop_path, recipe.pool, recipe.drop_last, recipe.clip_grad) == (0.1, "cls", True, None)
        assert recipe.image_size == 224
    assert large.model_copy(update={"batch_size": 64, "epochs": 200.0}) == small


def test_a_published_list_decides_classes_and_parts(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 4)
    names = ("red", "blue", "green")
    lines = [f"{name}_{{}}.png /elsewhere/{name} {number}" for number, name in enumerate(names)]
    (data / "train_labels_28_0.txt").write_text("".join(f"{line.format(i)}\n" for line in lines for i in (1, 2, 3)))
    (data / "valid_labels_28_0.txt").write_text("".join(f"{line.format(4)}\n" for line in lines))
    out = tmp_path / "run"
    result = train(data, out, split="28", epochs=2.0)
    assert result.runs[0].images == 3
    assert evaluate_run(out, EvaluateConfig(precision="fp32")).classes == names


def test_unreadable_test_images_are_counted_as_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, out = write_classes(tmp_path / "data", 4), tmp_path / "run"
    rows = [
        f"{n}/{n}_{i}.png,{n},{'test' if i == 4 else 'train'}" for n in ("blue", "green", "red") for i in (1, 2, 3, 4)
    ]
    (data / "split.csv").write_text("file,label,split\n" + "\n".join(rows) + "\n")
    (data / "blue" / "blue_4.png").write_bytes(b"not an image")
    (data / "red" / "red_1.png").write_bytes(b"")
    Image.new("RGB", (40, 40), (190, 60, 60)).save(data / "red" / "red_4.png")  # uniform, and still an image
    result = train(data, out, epochs=2.0)
    assert (result.runs[0].images, result.runs[0].unreadable) == (3, 1)
    assert result.oa <= 200 / 3 + 1e-9
    assert "blue_4.png,not_an_image" in (out / "evaluation" / "quarantine.csv").read_text()
    assert "red_1.png,empty" in (out / "quarantine.csv").read_text()


def test_a_class_missing_in_the_test_part(tmp_path: Path) -> None:
    for name in ("blue", "green", "red"):
        for i in range(3):
            write_image(tmp_path / "data" / "train" / name / f"{i}.png", (90, 90, 90), i)
            if name != "red":
                write_image(tmp_path / "data" / "test" / name / f"{i}.png", (90, 90, 90), i)
    out = tmp_path / "run"
    train(tmp_path / "data", out, epochs=2.0)
    figures = json.loads((out / "evaluation" / "figures.json").read_text())
    assert figures["classes_without_images"] == ["red"]
    assert figures["per_class"]["red"] is None
    assert "no test image of class red" in (out / "log.txt").read_text()


def test_evaluation_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    train(write_classes(tmp_path / "data", 4), out, epochs=2.0)
    some = write_classes(tmp_path / "some", 3, ("green", "red"))
    found = evaluate_run(out, EvaluateConfig(data=str(some), part="all"))
    assert (found.images, found.counts) == (6, (0, 3, 3))
    monkeypatch.chdir(tmp_path)
    one = write_classes(tmp_path / "one", 3, ("red",))
    for data, settings, images in (
        (some, {}, 6), (some, {"test_share": 0.4}, 2), (some, {"part": "test"}, 2), (one, {}, 3),
        (tmp_path / "data", {}, 3), ("./data", {}, 3), ("data", {"part": "all"}, 12),
    ):  # fmt: skip
        config = EvaluateConfig.build(settings, {"data": str(data)})
        assert evaluate_run(out, config).images == images, (data, settings)
    more = write_classes(tmp_path / "more", 3, ("green", "lake", "red", "river"))
    with pytest.raises(DataError, match=r"knows 3 classes, the data have 4, of which it does not know 2: lake, river"):
        evaluate_run(out, EvaluateConfig(data=str(more)))


def test_bad_settings_leave_nothing_behind(tmp_path: Path) -> None:
    data, out = write_classes(tmp_path / "data", 3), tmp_path / "run"
    for settings, complaint in (
        ({"weights": None}, "no weights given"),
        ({"lists": data}, "--lists goes with --split"),
        ({"split": "28"}, "there is none"),
        ({"epochs": 3.0, "warmup_epochs": 5.0}, "leaves nothing"),
        ({"rand_augment": "random-m9"}, "rand"),
    ):
        with pytest.raises((ConfigError, DataError), match=complaint):
            train(data, out, **settings)
        assert not out.exists()
    with pytest.raises(DataError, match="at least two class folders"):
        train(data / "red", out)
    train(data, out, epochs=2.0)
    with pytest.raises(CheckpointError, match=r"was trained with smoothing 0\.1, not 0\.2"):
        train(data, out, resume=True, epochs=2.0, smoothing=0.2)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_classes(tmp_path / "data", 4), tmp_path / "run"
    begin = ["finetune", "classify", "--weights", "random:vit_tiny_patch8", "--data", str(data), "--out", str(out)]
    assert (
        main([*begin, "--image-size", "32", "--epochs", "2", "--warmup-epochs", "0", "--workers", "0", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["oa"] == pytest.approx(result["oa"])
    figures = tmp_path / "figures"
    assert main(["evaluate", str(out), "--out", str(figures), "--quiet"]) == 0
    assert main(["evaluate", str(out), "--out", str(figures), "--quiet"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--out", str(figures), "--overwrite", "--quiet"]) == 0
    table = str(figures / "predictions.csv")
    with open(table, newline="") as f:
        truth = "".join(f"{row['id']},{row['true_label']}\n" for row in csv.DictReader(f))
    (tmp_path / "truth.csv").write_text("id,label\n" + truth)
    capsys.readouterr()
    tables = ["--predictions", table, "--ground-truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", "--task", "classify", *tables, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["oa"] == pytest.approx(result["oa"])
    for wrong in ([], ["evaluate", str(out), *tables][1:], tables[:2], tables):
        assert main(["evaluate", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 4
