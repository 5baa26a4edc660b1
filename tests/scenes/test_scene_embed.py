"""Features of scenes: those of the encoder, as rasters and GeoParquet; places like another."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from PIL import Image
from scene_worlds import PLACE, UTM, noise, write_scene

from selectivemae.core.errors import ConfigError
from selectivemae.models import vit
from selectivemae.scenes.config import SceneEmbedSettings
from selectivemae.scenes.embed import embed_scene, encoder_field
from selectivemae.weights.load import load_encoder

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """vit_tiny of two narrow blocks, for windows of 32 pixels with patches of 8."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))
    return load_encoder("random:vit_tiny_patch8", image_size=32)


def run(encoder: torch.nn.Module, image: Path, out: Path, overwrite: bool = False, **more):
    settings = SceneEmbedSettings.build({"image": image}, more)
    field = encoder_field(encoder, torch.device("cpu"))
    return embed_scene(field, settings, out, 5, "model", overwrite=overwrite, quiet=True)


def test_without_overlap_features_are_the_encoders(encoder, tmp_path: Path) -> None:
    pixels = noise(64, 96)
    run(encoder, write_scene(tmp_path / "a.tif", pixels), tmp_path / "f.tif", overlap=0)
    with rasterio.open(tmp_path / "f.tif") as made:
        assert (made.count, made.shape) == (64, (8, 12))
        assert (made.crs, made.transform) == (UTM, PLACE @ Affine.scale(8))
        values = made.read()
    described = encoder.pretrained_cfg
    mean, std = (np.array(described[k])[:, None, None] for k in ("mean", "std"))
    x = torch.from_numpy((pixels / 255 - mean) / std).float()
    for row, column in ((0, 0), (1, 2)):
        window = x[None, :, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        with torch.inference_mode():
            want = encoder.forward_features(window)[0, 1:].T.reshape(64, 4, 4)
        got = values[:, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        assert np.abs(got - want.numpy()).max() < 1e-5


def test_parquet_holds_the_raster(encoder, tmp_path: Path) -> None:
    pixels = noise(70, 60) | 1
    pixels[:, :40, :24] = 0
    image = write_scene(tmp_path / "a.tif", pixels, nodata=0)
    run(encoder, image, tmp_path / "f.tif")
    run(encoder, image, tmp_path / "f.parquet")
    with rasterio.open(tmp_path / "f.tif") as made:
        values, transform = made.read(), made.transform
    table = pq.read_table(tmp_path / "f.parquet")
    row, column = table["row"].to_numpy(), table["column"].to_numpy()
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    assert np.isfinite(values).all(axis=0).sum() == len(table) == 9 * 8 - 5 * 3
    assert (vectors == values[:, row, column].T).all()
    squares = shapely.from_wkb(table["geometry"].to_pylist())
    left, top = transform @ (int(column[7]), int(row[7]))
    assert squares[7].equals(shapely.box(left, top - 4, left + 4, top))
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32631}


def test_places_like_another(encoder, tmp_path: Path) -> None:
    pixels = np.full((3, 96, 96), 40, np.uint8)
    pixels[:, 32:64, 64:96] = noise(32, 32, seed=5)
    pixels[:, 64:96, 0:32] = noise(32, 32, seed=5)
    image = write_scene(tmp_path / "a.tif", pixels)
    x, y = PLACE @ (68.0, 36.0)  # the first patch of the noise
    run(encoder, image, tmp_path / "heat.tif", overlap=0, query=f"{x},{y}")
    assert (tmp_path / "heat.preview.png").is_file()
    with rasterio.open(tmp_path / "heat.tif") as made:
        heat = made.read(1)
    assert heat.shape == (12, 12)
    assert np.isclose(heat[4, 8], 1)
    assert np.isclose(heat[8, 0], 1)
    assert heat[0, 0] < 0.999
    Image.fromarray(pixels[:, 32:64, 64:96].transpose(1, 2, 0)).save(tmp_path / "q.png")
    run(encoder, image, tmp_path / "like.tif", overlap=0, query=str(tmp_path / "q.png"))
    with rasterio.open(tmp_path / "like.tif") as made:
        like = made.read(1)
    assert like[4:8, 8:].mean() > like[:4].mean()
    with pytest.raises(ConfigError, match="lies outside"):
        run(encoder, image, tmp_path / "no.tif", query="1,2")
    with pytest.raises(ConfigError, match="--query must be"):
        run(encoder, image, tmp_path / "none.tif", query="church")
    with pytest.raises(ConfigError, match="is the scene itself"):
        run(encoder, image, image, overwrite=True)
