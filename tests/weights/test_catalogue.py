"""Published weights by name: what a person downloaded is accepted, checked and found again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_weights import mae_extras, vit

from selectivemae.core.errors import WeightsError
from selectivemae.weights import catalogue
from selectivemae.weights.catalogue import PUBLISHED, Published, find_published, get, kept_file, names
from selectivemae.weights.hub import choose
from selectivemae.weights.load import load_encoder

TINY = Published("mae-vit-tiny", "MAE", "vit_tiny_patch16", "a test", "1", 1, "https://drive.example/x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELECTIVEMAE_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setattr(catalogue, "PUBLISHED", (*PUBLISHED, TINY))
    return tmp_path / "kept"


def test_every_row_of_the_published_tables_is_there() -> None:
    found = {(entry.method, entry.architecture, entry.data, entry.images) for entry in PUBLISHED}
    for size in ("base", "large"):
        for count in ("4", "13"):
            assert ("SelectiveMAE", f"vit_{size}_patch16", f"OpticalRS-{count}M", f"{count} M") in found
    baselines = [entry for entry in PUBLISHED if entry.method == "MAE"]
    assert {entry.images for entry in baselines} == {"1 M", "2 M", "3 M", "4 M"}
    assert all(entry.page.startswith("https://") and not entry.hub for entry in baselines)
    assert len(set(names())) == len(names())


def test_equal_samples_seen_of_the_data_comparison() -> None:
    """The table compares 800, 400, 267 and 200 epochs of 1, 2, 3 and 4 million images."""
    seen = [int(e.images.split()[0]) * e.epochs for e in PUBLISHED if e.method == "MAE" and not e.name.endswith("-800")]
    assert all(abs(count - 800) <= 1 for count in seen)


def test_a_file_got_by_hand_is_accepted_under_its_name(tmp_path: Path) -> None:
    source: Any = vit(depth=12)
    torch.save({"model": source.state_dict() | mae_extras(), "epoch": 799}, tmp_path / "checkpoint-799.pth")
    lines: list[str] = []
    path = get("mae-vit-tiny", tmp_path / "checkpoint-799.pth", say=lines.append)
    assert path == kept_file("mae-vit-tiny")
    assert "100.0%" in lines[0]
    encoder: Any = load_encoder("mae-vit-tiny")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(encoder.forward_features(images), source.forward_features(images))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({"model": vit(depth=12).state_dict()}, tmp_path / "tiny.pth")
    with pytest.raises(WeightsError, match=r"tiny\.pth: holds a vit_tiny_patch16.*is a vit_base_patch16"):
        get("mae-vit-base-millionaid", tmp_path / "tiny.pth")


def test_what_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match=r"by hand from https://pan\.baidu.*--file PATH"):
        load_encoder("mae-vit-base-millionaid")
    with pytest.raises(WeightsError, match="weights get selectivemae-vit-base-opticalrs-4m"):
        load_encoder("selectivemae-vit-base-opticalrs-4m")
    with pytest.raises(WeightsError, match="by hand"):
        get("mae-vit-base-millionaid")
    with pytest.raises(WeightsError, match="did you mean 'mae-vit-base-millionaid'"):
        find_published("mae-vit-base-milionaid")


@pytest.mark.parametrize(
    ("files", "file", "expected"),
    [
        (["README.md", "model.safetensors", "pytorch_model.bin"], None, ["model.safetensors"]),
        (["a.pth", "README.md"], None, ["a.pth"]),
        (["a.pth", "b.pth"], "b.pth", ["b.pth"]),
    ],
)
def test_which_file_of_a_repository(files: list[str], file: str | None, expected: list[str]) -> None:
    assert choose(files, file, "o/n") == expected


@pytest.mark.parametrize(("files", "file"), [(["a.pth", "b.pth"], None), (["a.pth", "b.pth"], "c.pth"), ([], None)])
def test_an_unclear_repository_names_its_files(files: list[str], file: str | None) -> None:
    with pytest.raises(WeightsError, match=r"a\.pth, b\.pth|no weights"):
        choose(files, file, "o/n")


@pytest.mark.parametrize(
    ("name", "hints", "expected"),
    [("vit-base-OpticalRS-4M.pth", ("base", "4m"), True), ("vit-base-14m.pth", ("base", "4m"), False)],
)
def test_hints_are_whole_numbers(name: str, hints: tuple[str, ...], expected: bool) -> None:
    assert all(catalogue._has(name, hint) for hint in hints) == expected
