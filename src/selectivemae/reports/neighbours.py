"""A picture sheet of a search: the query, and the images nearest to it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from selectivemae.reports.html import data_uri, fill

THUMBNAIL = 160  # pixels
_COLUMNS = 6
_LINE = 14  # pixels of a line of text


@dataclass(frozen=True)
class Shown:
    """One picture of the sheet, as encoded bytes; None where there is none to show."""

    name: str
    note: str
    image: bytes | None


def as_html(title: str, shown: Sequence[Shown]) -> str:
    """One page with everything inside; nothing is fetched."""
    return fill("neighbours.html", title=title, pictures=[(one, _jpeg(thumbnail(one.image))) for one in shown])


def as_png(shown: Sequence[Shown]) -> bytes:
    """The sheet as one picture."""
    rows = -(-len(shown) // _COLUMNS)
    cell = THUMBNAIL + 2 * _LINE + 8
    sheet = Image.new("RGB", (_COLUMNS * (THUMBNAIL + 8), rows * cell), "white")
    draw = ImageDraw.Draw(sheet)
    for place, one in enumerate(shown):
        left, top = (place % _COLUMNS) * (THUMBNAIL + 8) + 4, (place // _COLUMNS) * cell + 4
        sheet.paste(thumbnail(one.image), (left, top))
        draw.text((left, top + THUMBNAIL), one.note, fill="black")
        draw.text((left, top + THUMBNAIL + _LINE), one.name[-26:], fill="#59616b")
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def thumbnail(data: bytes | None) -> Image.Image:
    """A square thumbnail of encoded bytes, on grey; grey alone where they are no picture that can be shown."""
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "#dfe3e8")
    if data is not None:
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            return square
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        square.paste(image, ((THUMBNAIL - image.width) // 2, (THUMBNAIL - image.height) // 2))
    return square


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), "jpeg")
