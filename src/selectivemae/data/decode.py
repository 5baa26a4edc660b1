"""From the bytes of an image file to pixels, or a :class:`DecodeError` with a short reason.

The kind is told by content, never by name. JPEG goes through simplejpeg (strict: a cut file is an error, not a grey
area), PNG, GIF, BMP, WebP and 8-bit JPEG 2000 through Pillow, TIFF and everything of more than 8 bits and more than
one band through rasterio (extra ``[geo]``); binary pixmaps (PPM, PGM) are pixels already. The size is read from the
header before any pixel is allotted.

Orientation flags (EXIF) are ignored everywhere: pixels come as they are stored. Overhead images have no "up", and
annotations, footprints and hashes refer to the stored pixels.

Reasons: ``empty``, ``not_an_image``, ``truncated``, ``corrupt``, ``bomb``, ``animated``, ``unsupported``,
``needs_rasterio``, ``channels``, and from :func:`judge` ``too_small``, ``elongated``, ``uniform``, ``nodata``.
"""

import importlib
import io
import re
import warnings
from types import ModuleType
from typing import Any, NoReturn, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile
from scipy import ndimage

from selectivemae.core.errors import DecodeError

UInt8 = NDArray[np.uint8]

MAX_PIXELS = 1 << 27  # 11,585 x 11,585: 0.4 GB as RGB; larger scenes are sliced by curation, not decoded whole
MIN_SIDE = 32
MAX_ELONGATION = 16
UNIFORM_STD = 2.0
NODATA_SHARE = 0.5
_LATTICE = 32  # samples a side for the quality rule
_STRETCH_SAMPLES = 1 << 18  # pixels from which the percentiles of deep images are taken
_PILLOW_FORMAT = {
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "jpeg2000": "JPEG2000",
    "tiff": "TIFF",
}
_DRIVER = {"png": "PNG", "tiff": "GTiff", "jpeg2000": "JP2OpenJPEG"}
_SENTINEL2, _SENTINEL2_RGB = 13, [3, 2, 1]  # bands of a whole image, and where its red, green and blue are
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PIXMAP = re.compile(rb"P([56])\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(\d{1,9})\s+255\s")
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int, str]:
    """Width, height and kind (``jpeg``, ``png``, ``gif``, ``bmp``, ``webp``, ``jpeg2000``, ``tiff``,
    ``pixmap``) from the header.

    Raises DecodeError for bytes that are no image and for images of more than ``max_pixels`` pixels (``bomb``).
    """
    kind = sniff(data)
    if kind == "jpeg":
        try:
            rows, columns, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            _fail_jpeg(error)
        width, height = int(columns), int(rows)
    elif kind == "pixmap":
        width, height, _, _ = _pixmap(data)
    elif kind == "tiff" and (rasterio := _rasterio()):
        width, height = _raster_size(rasterio, data, kind)
    else:
        with _open_pillow(data, kind) as image:
            width, height = image.size
    if width * height > max_pixels:
        raise DecodeError("bomb", f"the header claims {width} x {height} pixels, more than the limit of {max_pixels}")
    return width, height, kind


def decode(
    data: bytes, channels: int = 3, max_pixels: int = MAX_PIXELS, *, buffer: UInt8 | None = None, shrink: int = 1
) -> UInt8:
    """Pixels (H, W, channels) uint8 of an image file.

    Grey is repeated, surplus bands are left out, RGB becomes luma where one channel is asked for; see
    :func:`fit_channels`. Transparent and no-data pixels are 0. Samples of more than 8 bits are stretched band by band
    from their 2nd to their 98th percentile over the valid pixels. Raises DecodeError.

    For JPEG and pixmaps the pixels lie in ``buffer`` (flat, large enough) if one is given, which saves a page fault for
    every 4 KB; and for JPEG, with ``shrink`` 2, 4 or 8 the image comes at that part of its size (rounded up), from the
    low frequencies of its blocks alone.
    """
    width, height, kind = header(data, max_pixels)
    if kind == "jpeg":
        least = (-(-height // shrink), -(-width // shrink)) if shrink > 1 else (0, 0)
        try:
            pixels = simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", False, False, *least, 1.0, buffer)
            return fit_channels(pixels, channels)
        except ValueError as error:
            _fail_jpeg(error)
    if kind == "pixmap":
        _, _, bands, start = _pixmap(data)
        if len(data) - start < width * height * bands:
            raise DecodeError("truncated", f"the pixmap ends after {len(data) - start} bytes of pixels")
        size = width * height * bands
        pixels = np.empty(size, np.uint8) if buffer is None or len(buffer) < size else buffer[:size]
        pixels[:] = np.frombuffer(data, np.uint8, size, start)  # a copy: what lies in bytes cannot be written
        return fit_channels(pixels.reshape(height, width, bands), channels)
    if kind == "tiff" or _is_deep(data, kind):
        if rasterio := _rasterio():
            return fit_channels(_decode_raster(rasterio, data, kind), channels)
        if kind != "tiff":
            _fail_rasterio(kind)
    return fit_channels(_decode_pillow(data, kind), channels)


def judge(pixels: UInt8) -> str | None:
    """Why an image (H, W, C) is not worth training on, or None: :func:`judge_size`, then :func:`judge_content`."""
    return judge_size(pixels.shape[1], pixels.shape[0]) or judge_content(pixels)


def judge_content(pixels: UInt8) -> str | None:
    """``uniform``, ``nodata``, or None for pixels (H, W, C).

    From a lattice of at most 32 x 32 pixels: uniform if the luma's standard deviation is below 2, no-data if over half
    of the pixels are exactly black, or exactly white, and connected with the border.
    """
    height, width, channels = pixels.shape
    lattice = pixels[:: -(-height // _LATTICE), :: -(-width // _LATTICE)].astype(np.float32)
    grey = lattice @ (_LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32))
    centred = (grey - grey.mean()).ravel()
    if np.dot(centred, centred) < UNIFORM_STD**2 * grey.size:
        return "uniform"
    for pure in (grey == 0, grey > 254.99):  # a weighted mean is extreme only where every channel is
        enough = NODATA_SHARE * pure.size
        if np.count_nonzero(pure) > enough and np.count_nonzero(_reached_from_border(pure)) > enough:
            return "nodata"
    return None


def judge_size(width: int, height: int) -> str | None:
    """``too_small`` (a side below 32 px), ``elongated`` (sides beyond 16:1), or None."""
    if min(width, height) < MIN_SIDE:
        return "too_small"
    return "elongated" if max(width, height) > MAX_ELONGATION * min(width, height) else None


def sniff(data: bytes) -> str:
    """Kind of an image file from its first bytes; DecodeError ``empty`` or ``not_an_image`` otherwise."""
    if not data:
        raise DecodeError("empty", "the file has no bytes")
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(_TIFF_HEADS):
        return "tiff"
    if data.startswith((b"P5", b"P6")):
        return "pixmap"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"BM"):
        return "bmp"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "jpeg2000"
    raise DecodeError("not_an_image", f"the bytes begin with {data[:8]!r}, which no supported image format does")


def luma(rgb: UInt8) -> UInt8:
    """ITU-R BT.601 luma (H, W) uint8 of RGB (H, W, 3): (19595 R + 38470 G + 7471 B + 32768) >> 16, as Pillow has it.

    Pillow does it in one pass, numpy in twelve; a test holds the formula, on which hashes rest.
    """
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))


def fit_channels(pixels: UInt8, channels: int) -> UInt8:
    """(H, W, any) -> (H, W, channels): grey repeated, RGB to luma, surplus bands left out; DecodeError ``channels``.

    Of the 13 bands of a whole Sentinel-2 image (EuroSAT) RGB is bands 4, 3 and 2.
    """
    if pixels.shape[2] == _SENTINEL2 and channels in (1, 3):
        pixels = np.ascontiguousarray(pixels[..., _SENTINEL2_RGB])
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if have == 1:
        return np.repeat(pixels, channels, axis=2)
    if channels == 1:
        return luma(pixels[..., :3])[..., None] if have >= 3 else np.ascontiguousarray(pixels[..., :1])
    if have > channels:
        return np.ascontiguousarray(pixels[..., :channels])
    raise DecodeError("channels", f"the image has {have} bands, {channels} are needed")


def stretch(bands: NDArray[Any], valid: NDArray[np.bool_]) -> UInt8:
    """Deep samples (H, W, C) -> uint8, band by band from the 2nd to the 98th percentile of the valid pixels (H, W).

    Pixels that are not valid become 0. The percentiles are taken from at most 2^18 pixels on a regular lattice.
    """
    step = max(1, int(np.ceil(np.sqrt(valid.size / _STRETCH_SAMPLES))))
    sample = bands[::step, ::step][valid[::step, ::step]]
    if not len(sample):
        return np.zeros(bands.shape, np.uint8)
    low, high = np.percentile(sample, (2, 98), axis=0).astype(np.float32)
    span = np.where(high > low, high - low, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (bands.astype(np.float32) - low) * (255 / span)
    scaled = np.where(valid[..., None], scaled, 0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _pixmap(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, channels, and where the pixels begin, of a binary PPM or PGM with 8 bits a sample."""
    match = _PIXMAP.match(data, 0, 512)
    if match is None:
        raise DecodeError("unsupported", "the pixmap has no header of 8-bit samples (P5 or P6, size, 255)")
    kind, width, height = (int(number) for number in match.groups())
    return width, height, 1 if kind == 5 else 3, match.end()


def _open_pillow(data: bytes, kind: str) -> ImageFile.ImageFile:
    """Header of a file by the one plugin of its kind; unlike ``Image.open`` free of the global pixel limit."""
    Image.init()
    plugin, _ = Image.OPEN[_PILLOW_FORMAT[kind]]
    try:
        return plugin(io.BytesIO(data), "")  # type: ignore[return-value]
    except (OSError, SyntaxError, ValueError, OverflowError) as error:
        raise DecodeError("corrupt", f"the {kind} header cannot be read: {error}") from error


def _decode_pillow(data: bytes, kind: str) -> UInt8:
    with _open_pillow(data, kind) as image:
        if kind != "tiff" and getattr(image, "n_frames", 1) > 1:
            raise DecodeError("animated", f"the {kind} has {getattr(image, 'n_frames', 1)} frames; one image is wanted")
        if kind == "tiff" and (image.mode not in ("1", "L", "P", "RGB") or _tiff_bits(image) > 8):
            _fail_rasterio(f"tiff of mode {image.mode}")
        try:
            image.load()
            if image.mode.startswith(("I", "F")):
                grey = np.asarray(image)
                return stretch(grey[..., None], np.isfinite(grey))
            if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
                rgba = np.array(image.convert("RGBA"))
                rgba[rgba[..., 3] == 0] = 0
                return np.ascontiguousarray(rgba[..., :3])
            pixels = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
            return pixels if pixels.ndim == 3 else pixels[..., None]
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            reason = "truncated" if "truncated" in str(error) else "corrupt"
            raise DecodeError(reason, f"the {kind} cannot be decoded: {error}") from error


def _tiff_bits(image: ImageFile.ImageFile) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, 1)  # BitsPerSample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _raster_size(rasterio: ModuleType, data: bytes, kind: str) -> tuple[int, int]:
    try:
        with _quiet(), rasterio.MemoryFile(data, filename="image") as file, file.open(driver=_DRIVER[kind]) as raster:
            return raster.width, raster.height
    except rasterio.errors.RasterioError as error:
        raise DecodeError("corrupt", f"the {kind} header cannot be read: {error}") from error


def _decode_raster(rasterio: ModuleType, data: bytes, kind: str) -> UInt8:
    interp = rasterio.enums.ColorInterp
    try:
        with _quiet(), rasterio.MemoryFile(data, filename="image") as file, file.open(driver=_DRIVER[kind]) as raster:
            roles = raster.colorinterp
            if roles[0] == interp.cyan or any(np.dtype(kind_).kind == "c" for kind_ in raster.dtypes):
                raise DecodeError(
                    "unsupported", f"a {kind} of {raster.dtypes[0]} {roles[0].name} bands has no RGB here"
                )
            wanted = [number for number, role in enumerate(roles, 1) if role != interp.alpha] or [1]
            bands = np.moveaxis(raster.read(wanted), 0, -1)
            valid = raster.dataset_mask() > 0
            palette = raster.colormap(1) if roles[0] == interp.palette else None
    except rasterio.errors.RasterioError as error:
        raise DecodeError("corrupt", f"the {kind} cannot be decoded: {error.__cause__ or error}") from error
    if palette:
        table = np.zeros((1 << 16, 3), np.uint8)
        table[list(palette)] = [colour[:3] for colour in palette.values()]
        bands = table[bands[..., 0]]
    if bands.dtype != np.uint8:
        return stretch(bands, valid & np.isfinite(bands).all(-1))
    bands[~valid] = 0
    return np.ascontiguousarray(bands)


def _is_deep(data: bytes, kind: str) -> bool:
    """Whether samples have more than 8 bits in several bands, of which Pillow would keep the high bytes only."""
    if kind == "png":
        return data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x04", b"\x06")
    if kind == "jpeg2000":
        size = data.find(b"\xff\x4f\xff\x51") + 40  # the SIZ segment: number of components, then their depths
        return (
            int.from_bytes(data[size : size + 2], "big") > 1
            and (int.from_bytes(data[size + 2 : size + 3]) & 0x7F) + 1 > 8
        )
    return False


def _reached_from_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a mask (h, w) that is 4-connected with its border within the mask."""
    labels, count = cast(tuple[NDArray[np.int32], int], ndimage.label(mask))
    touching = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    touching[0] = False
    return touching[labels]


def _rasterio() -> ModuleType | None:
    """rasterio with its parts, or None where the extra ``[geo]`` is not installed. Loaded late: it brings GDAL."""
    try:
        for part in ("rasterio.io", "rasterio.enums", "rasterio.errors"):
            importlib.import_module(part)
        return importlib.import_module("rasterio")
    except ImportError:
        return None


def _quiet() -> "warnings.catch_warnings[None]":
    """No warnings about rasters without a place on Earth."""
    return warnings.catch_warnings(action="ignore")


def _fail_jpeg(error: ValueError) -> NoReturn:
    text = str(error)
    reason = "truncated" if "Premature end" in text else "corrupt"
    raise DecodeError(reason, f"the jpeg cannot be decoded: {text}") from error


def _fail_rasterio(what: str) -> NoReturn:
    message = f"a {what} of more than 8 bits or other bands than RGB needs rasterio: pip install 'selectivemae[geo]'"
    raise DecodeError("needs_rasterio", message)
