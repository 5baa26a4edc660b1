"""Statistics, rules, rasters and the work on a chunk, on odd files, real rasters and made ones."""

import csv
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from curation_worlds import save, scenery
from PIL import Image
from scipy.signal import convolve2d

from selectivemae.core.errors import DecodeError, StoreError
from selectivemae.curation import tables
from selectivemae.curation.exclude import Rule, Rules, border_fill, distinct_colours, jpeg_quality, judge, statistics
from selectivemae.curation.places import footprint
from selectivemae.curation.read import Chunk, read_chunk
from selectivemae.curation.scene import Place, open_scene
from selectivemae.curation.slice import SliceRules, Window
from selectivemae.curation.sources import Source
from selectivemae.data.decode import luma
from selectivemae.data.stores import open_store

rasterio = pytest.importorskip("rasterio")


def figures(pixels: np.ndarray, mask: np.ndarray | None = None):
    return statistics(pixels, luma(pixels), np.zeros(pixels.shape[:2], bool) if mask is None else mask)


def test_figures_against_plain_numpy() -> None:
    pixels = scenery(1, 200, 240)
    grey = luma(pixels).astype(float)
    found = figures(pixels)
    assert found.mean == pytest.approx(grey.mean())
    assert found.std == pytest.approx(grey.std())
    share = np.bincount(grey.astype(int).ravel()) / grey.size
    assert found.entropy == pytest.approx(-sum(p * np.log2(p) for p in share if p))
    assert found.saturated == pytest.approx(((grey <= 2) | (grey >= 253)).mean())
    blocks = grey.reshape(25, 8, 30, 8).std(axis=(1, 3))
    assert found.flat_share == pytest.approx((blocks < 2).mean())


@pytest.mark.parametrize(
    "shape", [(200, 240), (256, 256), (64, 67), (90, 8), (33, 7), (5, 5), (3, 3), (2, 40), (40, 2), (1, 1)]
)
def test_textures_against_plain_sums(shape: tuple[int, int]) -> None:
    """Noise, softness, flat blocks and cloud, written out with nothing shared between them and nothing left out."""
    rng = np.random.default_rng(shape[0])
    pixels = np.clip(rng.normal(215, 12, (*shape, 1)) + rng.integers(0, 6, (*shape, 3)), 0, 255).astype(np.uint8)
    pixels[: shape[0] // 2] = np.clip(230 + rng.integers(-2, 3, (shape[0] // 2, shape[1], 1)), 0, 255)
    pixels[0, 0] = 20
    found, grey = figures(pixels), luma(pixels).astype(np.int64)
    variance = grey.var()
    if min(shape) >= 3:
        bend = convolve2d(grey, [[0, 1, 0], [1, -4, 1], [0, 1, 0]], "valid")
        grain = convolve2d(grey, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]], "valid")
        noise = (np.pi / 2) ** 0.5 * np.abs(grain).sum() / 6 / grain.size  # Immerkær 1996
        assert found.noise == pytest.approx(noise / variance**0.5)
        assert found.blur == pytest.approx(bend.var() / variance)
    tall, wide = shape[0] // 8, shape[1] // 8
    blocks = grey[: tall * 8, : wide * 8].reshape(tall, 8, wide, 8).swapaxes(1, 2).reshape(tall, wide, 64)
    assert found.flat_share == pytest.approx((blocks.std(axis=-1) < 2).mean() if blocks.size else 0)
    colours = pixels[: tall * 8, : wide * 8].reshape(tall, 8, wide, 8, 3).swapaxes(1, 2).reshape(tall, wide, 64, 3)
    high, low = colours.max(axis=-1).astype(float), colours.min(axis=-1).astype(float)
    cloud = (high > 0.8 * 255) & (high - low < 0.12 * high)
    cloud &= ((blocks.std(axis=-1) < 6) & (blocks.mean(axis=-1) > 128))[..., None]
    assert found.cloud == pytest.approx(cloud.mean() if blocks.size else 0)


@pytest.mark.parametrize("sigma", [4, 10, 25])
def test_noise_is_estimated(sigma: int) -> None:
    """Immerkær's figure recovers the standard deviation of added noise on a flat ground."""
    grey = 128 + np.random.default_rng(0).normal(scale=sigma, size=(256, 256))
    pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    found = figures(pixels)
    assert found.noise * found.std == pytest.approx(sigma, rel=0.06)


def test_detail_tells_upscaled_pictures() -> None:
    sharp = scenery(2, 256, 256)
    small = Image.fromarray(sharp).resize((128, 128), Image.Resampling.LANCZOS)
    again = np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC))
    assert figures(again).detail < 0.6 * figures(sharp).detail


def test_border_fill_is_only_what_touches_the_border() -> None:
    pixels = scenery(3).clip(1, 254)
    pixels[:, :20] = 0
    pixels[40:50, 40:50] = 0
    mask = border_fill(pixels, (0, 255))
    assert mask[:, :20].all()
    assert not mask[40:50, 40:50].any()
    assert mask.sum() == 96 * 20


def test_rules() -> None:
    identity = bytes(16)
    good = figures(scenery(4))
    assert judge(good, Rules(), identity) is None
    flat = figures(np.full((64, 64, 3), 100, np.uint8))
    assert judge(flat, Rules(), identity).reason == "uniform"  # type: ignore[union-attr]
    half = np.zeros((96, 96), bool)
    half[:48] = True
    verdict = judge(figures(scenery(4), half), Rules(), identity)
    assert (verdict.reason, verdict.value, verdict.threshold) == ("nodata", 0.5, 0.25)  # type: ignore[union-attr]
    assert judge(figures(scenery(4), half), Rules(nodata=Rule()), identity) is None
    thin = Rules(low_info=Rule(drop=2.0, thin=-1.0), keep_rate=0.3)
    kept = sum(judge(good, thin, bytes([i, j]) + bytes(14)) is None for i in range(32) for j in range(32))
    assert 0.25 < kept / 1024 < 0.35
    assert distinct_colours(np.kron(np.arange(5, dtype=np.uint8)[:, None, None], np.ones((9, 9, 3), np.uint8))) == 5


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 95])
def test_jpeg_quality(quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scenery(5)).save(buffer, "JPEG", quality=quality)
    assert jpeg_quality(buffer.getvalue()) == pytest.approx(quality, abs=2)
    assert jpeg_quality(b"\x89PNG....") == 100


def test_odd_inputs_are_judged_as_their_manifest_says(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(shared_data / "odd_inputs", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    zipfile.ZipFile(shared_data / "odd_names.zip").extractall(tmp_path / "names")
    for path in (p for p in (tmp_path / "names").rglob("*") if p.is_file()):
        shutil.copyfile(path, folder / path.name)
    store = open_store(folder)
    read_chunk(Chunk("c", Source(name="odd", path=(str(folder),)), Rules(), str(folder), "odd", 0, len(store)),
               tmp_path, lambda *_: None)  # fmt: skip
    kept = {row["member"] for row in tables.read([tmp_path / "c.tiles.parquet"], tables.TILES).to_pylist()}
    rows = tables.read([tmp_path / "c.dropped.parquet"], tables.DROPPED).to_pylist()
    why = {row["member"]: row["reason"] for row in rows}
    for row in csv.DictReader((shared_data / "odd_inputs" / "manifest.csv").open()):
        if row["file"] != "onebit.png":  # a matter of policy: two colours look like a label map
            assert (row["file"] in kept) == (row["expect"] == "ok"), (row, why.get(row["file"]))
    assert {name: why[name] for name in REASONS} == REASONS


REASONS = {
    "bomb.png": "bomb",
    "zero.jpg": "empty",
    "text.jpg": "not_an_image",
    "error_page.jpg": "not_an_image",
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "bad_crc.png": "corrupt",
    "mostly_nodata.png": "nodata",
    "noise.png": "noise",
    "black.jpg": "uniform",
    "white.jpg": "uniform",
    "low_contrast.png": "uniform",
    "thumb20.jpg": "too_small",
    "elongated.jpg": "elongated",
    "animated.gif": "animated",
    "onebit.png": "label_like",
}


def raster(path: Path, bands: np.ndarray, **options) -> Path:
    """Write (C, H, W) as a GeoTIFF at 30 m in UTM zone 15 N."""
    transform = rasterio.transform.from_origin(500_000, 1_800_000, 30, 30)
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    profile |= {"dtype": bands.dtype, "crs": "EPSG:32615", "transform": transform}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(bands)
    return path


def source(**options) -> Source:
    return Source(name="s", path=("p",), **options)


def test_deep_scenes_are_stretched_as_a_whole(tmp_path: Path) -> None:
    """Equal ground stays equal: a tile depends on the scene's range, not on its own."""
    ramp = np.tile(np.linspace(100, 4000, 300), (200, 1)).astype(np.uint16)
    path = raster(tmp_path / "a.tif", np.stack([ramp, ramp, ramp, ramp]))
    with open_scene(path, source()) as scene:
        whole, mask = scene.read(Window(0, 0, 300, 200))
        part, _ = scene.read(Window(100, 50, 64, 64))
        assert scene.stretch is not None
        low, high = scene.stretch
    assert not mask.any()
    assert (part == whole[50:114, 100:164]).all()
    assert low[0] == pytest.approx(np.percentile(ramp, 2), rel=0.01)
    assert high[0] == pytest.approx(np.percentile(ramp, 98), rel=0.01)
    expected = np.clip(np.rint((ramp.astype(float) - low[0]) * 255 / (high[0] - low[0])), 0, 255)
    assert np.abs(whole[..., 0] - expected).max() <= 1


def test_bands_nodata_and_ranges(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 255, (6, 80, 80), dtype=np.uint8)
    bands[:, :, :10] = 7
    path = raster(tmp_path / "a.tif", bands, nodata=7, photometric="minisblack")
    with pytest.raises(DecodeError) as caught, open_scene(path, source()):
        pass
    assert caught.value.reason == "wrong_bands"
    with pytest.raises(DecodeError, match="band 9"), open_scene(path, source(bands=(1, 2, 9))):
        pass
    with open_scene(path, source(bands=(6, 2, 1))) as scene:
        pixels, mask = scene.read(Window(0, 0, 80, 80))
    assert (pixels == bands[[5, 1, 0]].transpose(1, 2, 0)).all()
    assert mask[:, :10].all()
    with open_scene(path.read_bytes(), source(bands=(1, 2, 3), nodata="none", range=(0, 510))) as scene:
        pixels, mask = scene.read(Window(0, 0, 80, 80))
    assert not mask.any()
    assert np.abs(pixels.astype(int) - bands[:3].transpose(1, 2, 0) / 2).max() <= 0.5


def test_places_on_earth(tmp_path: Path, shared_data: Path) -> None:
    place = footprint(Place("EPSG:32615", (30, 0, 500_000, 0, -30, 1_800_000)), Window(10, 20, 100, 100))
    assert place is not None
    assert place.transform == (30, 0, 500_300, 0, -30, 1_799_400)
    assert place.gsd_m == 30
    assert place.lon_min == pytest.approx(-93, abs=0.01)
    assert place.lat_max == pytest.approx(16.27, abs=0.02)
    with open_scene(shared_data / "geotiff_samples/oam_uganda_rgb_3072x2048.tif", source()) as scene:
        assert scene.place is not None
        place = footprint(scene.place, Window(0, 0, 512, 512))
    assert place is not None
    assert place.gsd_m == pytest.approx(0.0746, rel=0.01)


def test_tiles_of_a_raster_carry_their_place(tmp_path: Path) -> None:
    pixels = scenery(8, 300, 400)
    raster(tmp_path / "in.tif", pixels.transpose(2, 0, 1), photometric="RGB", tiled=True, blockxsize=64, blockysize=64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in.tif").rename(tmp_path / "in" / "in.tif")
    cut = source(slice=SliceRules(tile=128, keep_whole=200))
    read_chunk(Chunk("c", cut, Rules(), str(tmp_path / "in"), "in", 0, 1, "png"), tmp_path, lambda *_: None)
    rows = tables.read([tmp_path / "c.tiles.parquet"], tables.TILES).to_pylist()
    spool = (tmp_path / "c.bin").read_bytes()
    assert len(rows) == 12
    for row in rows:
        image = np.asarray(Image.open(io.BytesIO(spool[row["offset"] : row["offset"] + row["size"]])))
        x, y = row["win_x"], row["win_y"]
        assert (image == pixels[y : y + 128, x : x + 128]).all()
        assert row["transform"][2] == 500_000 + 30 * x
        assert row["crs"] == "EPSG:32615"


def test_a_source_that_breaks_half_way(tmp_path: Path) -> None:
    """A file that is gone when its turn comes is a row with a reason; its neighbours are kept."""
    for number in range(3):
        save(tmp_path / "in" / f"{number}.jpg", scenery(number))
    open_store(tmp_path / "in")

    def mark(number: int, _: float) -> None:
        if number == 1:
            (tmp_path / "in" / "1.jpg").write_bytes(b"changed")

    chunk = Chunk("c", source(), Rules(), str(tmp_path / "in"), "in", 0, 3)
    assert read_chunk(chunk, tmp_path, mark) == {
        "files": 3,
        "tiles": 2,
        "dropped": 1,
        "bytes": (tmp_path / "c.bin").stat().st_size,
    }
    row = tables.read([tmp_path / "c.dropped.parquet"], tables.DROPPED).to_pylist()[0]
    assert (row["member"], row["reason"]) == ("1.jpg", "unreadable")
    assert "changed" in row["detail"]


def test_whatever_a_decoder_raises_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member whose reading raises anything is named with what was raised; its neighbours are kept, byte for byte."""
    raised = {
        1: RuntimeError("odd\nthing"),
        3: RecursionError("deep"),
        4: OSError(5, "Input/output error"),
        6: MemoryError(),
    }
    for number in range(8):
        save(tmp_path / "in" / f"{number}.jpg", scenery(number))
    really = simplejpeg.decode_jpeg
    bad = {(tmp_path / "in" / f"{number}.jpg").read_bytes(): error for number, error in raised.items()}

    def decode(data: bytes, *arguments: object) -> np.ndarray:
        if bytes(data) in bad:
            raise bad[bytes(data)]
        return really(data, *arguments)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    read_chunk(Chunk("c", source(), Rules(), str(tmp_path / "in"), "in", 0, 8), tmp_path, lambda *_: None)
    rows = tables.read([tmp_path / "c.dropped.parquet"], tables.DROPPED).to_pylist()
    assert {(r["member"], r["reason"], r["detail"]) for r in rows} == {
        ("1.jpg", "undecodable", "RuntimeError: odd thing"),
        ("3.jpg", "undecodable", "RecursionError: deep"),
        ("4.jpg", "unreadable", "[Errno 5] Input/output error"),
        ("6.jpg", "oom", "MemoryError: "),
    }
    kept = [n for n in range(8) if n not in raised]
    assert (tmp_path / "c.bin").read_bytes() == b"".join((tmp_path / "in" / f"{n}.jpg").read_bytes() for n in kept)


def test_a_raster_that_is_gone_is_a_row(tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.jpg", scenery(0))
    save(tmp_path / "in" / "1.tif", scenery(1))
    open_store(tmp_path / "in")

    def mark(number: int, _: float) -> None:
        if number == 1:
            (tmp_path / "in" / "1.tif").unlink(missing_ok=True)

    read_chunk(Chunk("c", source(), Rules(), str(tmp_path / "in"), "in", 0, 2), tmp_path, mark)
    row = tables.read([tmp_path / "c.dropped.parquet"], tables.DROPPED).to_pylist()[0]
    assert (row["member"], row["reason"]) == ("1.tif", "unreadable")


def test_a_source_that_lost_a_file_is_not_read_by_old_numbers(tmp_path: Path) -> None:
    """Numbers of members count in the listing that chunks were cut from: in another one files would be missed."""
    for number in range(3):
        save(tmp_path / "in" / f"{number}.jpg", scenery(number))
    fingerprint = open_store(tmp_path / "in").fingerprint
    chunk = Chunk("c", source(), Rules(), str(tmp_path / "in"), "in", 1, 3, fingerprint=fingerprint)
    assert read_chunk(chunk, tmp_path, lambda *_: None)["tiles"] == 2
    (tmp_path / "in" / "0.jpg").unlink()
    with pytest.raises(StoreError, match="changed since the run began"):
        read_chunk(chunk, tmp_path, lambda *_: None)
