"""Decoding against Pillow, rasterio and numpy; every odd input judged as its manifest says; nothing else is raised."""

import csv
import io
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selectivemae.core.errors import DecodeError
from selectivemae.data import decode as module
from selectivemae.data.decode import decode, fit_channels, header, judge, judge_size, luma

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
RNG = np.random.default_rng(0)
PICTURE = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48)))


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def reason_of(data: bytes, **options: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, **options)
    return caught.value.reason


@pytest.fixture(scope="module")
def odd(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All odd files in one folder, those with odd names too."""
    folder = tmp_path_factory.mktemp("odd") / "odd_inputs"
    shutil.copytree(shared_data / "odd_inputs", folder)
    folder.chmod(0o755)
    with zipfile.ZipFile(shared_data / "odd_names.zip") as archive:
        archive.extractall(folder.parent)
    return folder


def test_every_odd_file_is_judged_as_the_manifest_says(odd: Path) -> None:
    pytest.importorskip("rasterio")
    with (odd / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        try:
            verdict = judge(decode((odd / row["file"]).read_bytes())) or "ok"
        except DecodeError as error:
            verdict = error.reason
        if (verdict == "ok") != (row["expect"] == "ok") and row["kind"] != "pure_noise":  # noise is a matter of policy
            wrong.append((row["file"], row["expect"], verdict))
    assert len(rows) == 39
    assert not wrong


def test_the_reasons_are_the_right_ones(odd: Path) -> None:
    expected = {
        "zero.jpg": "empty", "text.jpg": "not_an_image", "error_page.jpg": "not_an_image", "truncated.jpg": "truncated",
        "truncated.png": "truncated", "bad_crc.png": "corrupt", "bomb.png": "bomb", "animated.gif": "animated",
    }  # fmt: skip
    assert {name: reason_of((odd / name).read_bytes()) for name in expected} == expected


def test_jpeg_is_pillows_to_the_bit(shared_data: Path) -> None:
    for folder in sorted((shared_data / "aid").iterdir())[:5]:
        for path in sorted(folder.glob("*.jpg"))[:2] if folder.is_dir() else ():
            data = path.read_bytes()
            with Image.open(path) as image:
                assert header(data) == (*image.size, "jpeg")
                assert (decode(data) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"quality": 60}), ("JPEG2000", {}), ("TIFF", {})]
)
def test_other_formats_are_pillows_to_the_bit(kind: str, options: dict[str, object]) -> None:
    data = encode(PICTURE, kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert (decode(data) == np.asarray(image.convert("RGB"))).all()
    assert header(data) == (64, 48, kind.lower())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_flags_are_ignored(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(PICTURE, kind, quality=90)
    assert (decode(encode(PICTURE, kind, quality=90, exif=exif)) == decode(plain)).all()


def test_palette_transparency_and_grey() -> None:
    palette = Image.fromarray(PICTURE).quantize(32)
    for kind in ("PNG", "GIF"):
        file = io.BytesIO()
        palette.save(file, kind)
        assert (decode(file.getvalue()) == np.asarray(palette.convert("RGB"))).all()
    alpha = np.where(np.arange(64) < 20, 0, 255).astype(np.uint8)
    rgba = np.dstack([PICTURE, np.broadcast_to(alpha, (48, 64))])
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(rgba, kind))
        assert not pixels[:, :20].any()
        assert (pixels[:, 20:] == PICTURE[:, 20:]).all()
    grey = PICTURE[..., 0]
    assert (decode(encode(grey, "PNG")) == grey[..., None]).all()
    assert decode(encode(grey, "PNG"), channels=1).shape == (48, 64, 1)
    assert (decode(encode(grey > 128, "PNG")) == np.where(grey > 128, 255, 0)[..., None]).all()


def test_deep_images_are_stretched_not_cut_off(odd: Path) -> None:
    """Against percentiles by numpy over all pixels of what Pillow and rasterio read."""
    rasterio = pytest.importorskip("rasterio")
    with Image.open(odd / "grey16.png") as image:
        grey = np.asarray(image).astype(float)[..., None]
    with rasterio.open(odd / "rgbn16.tif") as raster:
        bands = np.moveaxis(raster.read(), 0, -1).astype(float)
    for name, deep, channels in (("grey16.png", grey, 1), ("rgbn16.tif", bands, 4)):
        low, high = np.percentile(deep.reshape(-1, channels), (2, 98), axis=0)
        expected = np.clip((deep - low) / (high - low) * 255, 0, 255)
        assert np.abs(decode((odd / name).read_bytes(), channels) - expected).max() <= 0.51
    assert (decode((odd / "rgbn16.tif").read_bytes(), 3) == decode((odd / "rgbn16.tif").read_bytes(), 4)[..., :3]).all()


def test_no_data_is_black_and_left_out_of_the_stretch() -> None:
    rasterio = pytest.importorskip("rasterio")
    deep = RNG.integers(1000, 3000, (2, 40, 50)).astype(np.uint16)
    deep[:, :, :10] = 65535
    profile = {"driver": "GTiff", "width": 50, "height": 40, "count": 2, "dtype": "uint16", "nodata": 65535}
    with rasterio.MemoryFile() as file:
        with file.open(**profile) as raster:
            raster.write(deep)
        pixels = decode(bytes(file.getbuffer()), channels=2)
    assert not pixels[:, :10].any()
    low, high = np.percentile(deep[:, :, 10:], (2, 98), axis=(1, 2))
    expected = np.clip((np.moveaxis(deep[:, :, 10:], 0, -1) - low) / (high - low) * 255, 0, 255)
    assert np.abs(pixels[:, 10:] - expected).max() <= 0.51


def test_sixteen_bit_png_of_several_bands_keeps_its_low_bits() -> None:
    """Pillow would keep the high bytes only, which are all alike here."""
    rasterio = pytest.importorskip("rasterio")
    deep = RNG.integers(2048, 2048 + 250, (3, 40, 50)).astype(np.uint16)
    with rasterio.MemoryFile() as file:
        with file.open(driver="PNG", width=50, height=40, count=3, dtype="uint16") as raster:
            raster.write(deep)
        pixels = decode(bytes(file.getbuffer()))
    assert pixels.std() > 50


def test_without_rasterio(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rasterio = decode((odd / "lzw8.tif").read_bytes())
    monkeypatch.setattr(module, "_rasterio", lambda: None)
    assert (decode((odd / "lzw8.tif").read_bytes()) == with_rasterio).all()
    assert reason_of((odd / "rgbn16.tif").read_bytes()) in ("needs_rasterio", "corrupt")


def test_a_bomb_is_refused_before_memory_is_taken() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    jpeg = bytearray(encode(PICTURE, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    for data in (png, bytes(jpeg)):
        tracemalloc.start()
        assert reason_of(data) == "bomb"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
    assert reason_of(encode(PICTURE, "PNG"), max_pixels=64 * 48 - 1) == "bomb"
    assert decode(encode(PICTURE, "PNG"), max_pixels=64 * 48).shape == (48, 64, 3)


FILES = [
    encode(PICTURE, kind, **options)
    for kind, options in (
        ("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("GIF", {}), ("JPEG2000", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"progressive": True}),
    )
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(FILES), st.data())
def test_damaged_files_raise_nothing_else(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(file), 400) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(file)) | st.just(len(file)))]
    try:
        pixels = decode(bytes(damaged), max_pixels=1 << 20)
    except DecodeError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


@pytest.mark.parametrize("file", FILES[:2] + FILES[-1:])
def test_every_cut_of_a_file_is_noticed(file: bytes) -> None:
    for length in (*range(200), *range(200, len(file) - 20, 37)):
        with pytest.raises(DecodeError):
            decode(file[:length])


@pytest.mark.parametrize("size", [(64, 48), (65, 47), (33, 99)])
def test_shrunken_jpegs_are_rounded_up(size: tuple[int, int]) -> None:
    data = encode(np.asarray(Image.fromarray(PICTURE).resize(size)), "JPEG")
    for shrink in (1, 2, 4, 8):
        assert decode(data, shrink=shrink).shape == (-(-size[1] // shrink), -(-size[0] // shrink), 3)


def test_a_buffer_changes_nothing() -> None:
    buffer = np.empty(3 * 64 * 48 + 100, np.uint8)
    for file in FILES:
        assert (decode(file, buffer=buffer) == decode(file)).all()
        assert (decode(file, 1, buffer=buffer) == decode(file, 1)).all()


def test_channels() -> None:
    four = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    assert (fit_channels(four, 3) == four[..., :3]).all()
    assert (fit_channels(four[..., :1], 3) == four[..., :1]).all()
    assert (fit_channels(four[..., :3], 1)[..., 0] == np.asarray(Image.fromarray(four[..., :3]).convert("L"))).all()
    assert (luma(four[..., :3]) == fit_channels(four[..., :3], 1)[..., 0]).all()
    with pytest.raises(DecodeError, match="3 bands, 5 are needed"):
        fit_channels(four[..., :3], 5)


def test_rgb_of_a_whole_sentinel_2_image_is_bands_4_3_2() -> None:
    bands = np.random.default_rng(0).integers(0, 256, (4, 5, 13), dtype=np.uint8)
    rgb = np.stack([bands[..., 3], bands[..., 2], bands[..., 1]], axis=2)
    assert np.array_equal(fit_channels(bands, 3), rgb)
    assert np.array_equal(fit_channels(bands, 1)[..., 0], luma(rgb))
    assert np.array_equal(fit_channels(bands, 13), bands)
    assert np.array_equal(fit_channels(bands, 4), bands[..., :4])


def test_luma_is_the_formula_of_the_hashes() -> None:
    """Rounded half up from 16 fractional bits (ITU-R BT.601); hashes rest on every bit of it."""
    rgb = RNG.integers(0, 256, (300, 301, 3), dtype=np.uint8)
    rgb[:8, 0] = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    rgb[:256, 1] = np.arange(256)[:, None]
    red, green, blue = (rgb[..., channel].astype(np.int64) for channel in range(3))
    for view in (rgb, rgb[::2, ::3], rgb[:, ::-1]):
        assert luma(view).shape == view.shape[:2]
    assert (luma(rgb) == (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).all()
    assert (luma(rgb[::2, 5::3]) == luma(rgb)[::2, 5::3]).all()


def scene(side: int = 200) -> np.ndarray:
    return np.asarray(Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).resize((side, side)))


def framed(share: float, value: int) -> np.ndarray:
    pixels = scene().copy()
    pixels[: int(share * len(pixels))] = value
    return pixels


@pytest.mark.parametrize("value", [0, 255])
def test_no_data_is_what_the_border_reaches(value: int) -> None:
    assert judge(framed(0.6, value)) == "nodata"
    assert judge(framed(0.4, value)) is None
    lake = scene(400).copy()
    lake[20:380, 20:380] = value  # 81 % of the image, but nowhere at its border
    assert judge(lake) is None


def test_flat_small_and_long_images() -> None:
    assert judge(np.full((64, 64, 3), 90, np.uint8)) == "uniform"
    assert judge(RNG.integers(89, 92, (64, 64, 3), dtype=np.uint8)) == "uniform"
    assert judge(scene()) is None
    assert judge(scene()[..., :1]) is None
    assert [judge_size(*size) for size in ((31, 100), (100, 31), (32, 32), (600, 32), (32, 512), (4000, 250))] == [
        "too_small", "too_small", None, "elongated", None, None,
    ]  # fmt: skip


def test_real_scenes_are_kept(shared_data: Path) -> None:
    for path in sorted((shared_data / "big_scenes").glob("*.*")):
        if path.suffix in (".jpg", ".png"):
            assert judge(decode(path.read_bytes())) is None, path.name
