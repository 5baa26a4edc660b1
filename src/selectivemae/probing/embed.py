"""Features of many images as one Parquet file, in parts that a stopped run leaves behind and goes on from.

F.parquet              id (string), vector (fixed-size list of float32); in the order of ids. Its schema's metadata say
                       weights, architecture, pool, image size, and of the data their fingerprint and where they lay
F.parquet.quarantine.csv   images that could not be read: id, reason (only if there are any)
F.parquet.parts/       while it is made: about.json, part-00000.parquet, part-00000.csv ...
"""

import csv
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write, locked, prepare_parts
from selectivemae.core.order import Int64
from selectivemae.core.progress import ProgressLine
from selectivemae.data.reading import read_images
from selectivemae.data.stores import Store, open_stores
from selectivemae.probing.embed_config import EmbedConfig
from selectivemae.probing.features import encoder_describer, image_side
from selectivemae.probing.knn import Float32
from selectivemae.weights.info import EncoderInfo


@dataclass(frozen=True)
class EmbedResult:
    """What was written."""

    out: Path
    images: int
    width: int
    unreadable: int
    resumed: int  # images that an earlier, stopped run had done


def embed(
    encoder: nn.Module,
    weights: str,
    config: EmbedConfig,
    device: torch.device,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> EmbedResult:
    """Write the features of all images of ``config.data`` by a frozen encoder to ``config.out``.

    ``resume`` goes on from the parts of a stopped run with the same settings (or begins, or finds all done). Raises
    ConfigError, OutputError for a file that is there already or parts of other settings, DataError when nothing can be
    read.
    """
    if not config.data:
        raise ConfigError("no data given: --data FOLDER (or archive) with images")
    if config.out is None or config.out.suffix != ".parquet":
        raise ConfigError(f"--out must name a Parquet file (F.parquet), got {config.out}")
    store = open_stores(config.data)
    info = EncoderInfo.of(encoder)
    channels = info.channels
    size = image_side(encoder, config.image_size)
    about = {
        "weights": weights,
        "architecture": info.architecture,
        "pool": config.pool,
        "image_size": str(size),
        "part_size": str(config.part_size),
        "data": store.fingerprint,
        "state": digest(encoder),
    }
    if resume and not overwrite and (done := _finished(config.out, about, len(store))):
        return done
    parts = prepare_parts(config.out, about, resume=resume, overwrite=overwrite)
    describe = encoder_describer(encoder.to(device).eval(), device, config.pool)
    with locked(parts), ProgressLine("embedding", quiet=quiet) as line:
        resumed = 0
        for number, begin in enumerate(range(0, len(store), config.part_size)):
            index = np.arange(begin, min(begin + config.part_size, len(store)))
            path = parts / f"part-{number:05d}.parquet"
            if path.is_file():
                resumed += len(index)
                continue
            vectors, places, bad = [], [], []
            for images, chunk, unread in read_images(store, index, size, channels, config.workers, config.batch_size):
                bad += unread
                if len(chunk):
                    vectors.append(describe(images))
                    places.append(index[chunk])
                line.update(int(index[chunk[-1]] + 1 if len(chunk) else begin) / len(store), f"{len(store)} images")
            atomic_write(path.with_suffix(".csv"), _csv(bad))  # first: the part says that both are there
            _write_part(path, store, np.concatenate(places) if places else np.empty(0, np.int64), vectors)
        lay = json.dumps([os.path.abspath(path) if Path(path).exists() else path for path in config.data])
        result = _join(parts, config.out, about | {"paths": lay}, resumed)
    shutil.rmtree(parts)
    return result


def _finished(out: Path, about: dict[str, str], images: int) -> EmbedResult | None:
    """What an earlier run with the same settings wrote, None where there is none."""
    if not out.is_file():
        return None
    file, said = open_features(out)
    if any(said.get(key) != value for key, value in about.items()):
        return None
    rows, width = file.metadata.num_rows, file.schema_arrow.field("vector").type.list_size
    return EmbedResult(out, rows, width, images - rows, images)


def open_features(path: Path) -> tuple[pq.ParquetFile, dict[str, str]]:
    """A file of features, nothing of it read yet, and what it says of itself.

    DataError for a file that is no such thing.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise DataError(f"cannot read features from {path}: {e}") from e
    schema = file.schema_arrow
    if schema.names[:2] != ["id", "vector"] or not pa.types.is_fixed_size_list(schema.field("vector").type):
        raise DataError(f"{path} has the columns {schema.names}, not id and vector: was it made by embed?")
    return file, {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}


def read_features(path: Path) -> tuple[list[str], Float32, dict[str, str]]:
    """Ids (N), vectors (N, E) and what the file says of itself. DataError for a file that is no such thing."""
    file, about = open_features(path)
    table = file.read()
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    return table["id"].to_pylist(), flat.reshape(len(table), -1), about


def _write_part(path: Path, store: Store, places: Int64, vectors: list[Float32]) -> None:
    """Ids and vectors of one part; a part without a readable image has no lines."""
    values = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    table = pa.table({"id": pa.array([store.id(int(i)) for i in places], pa.string()), "vector": column})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    atomic_write(path, sink.getvalue().to_pybytes())


def _join(parts: Path, out: Path, about: dict[str, str], resumed: int) -> EmbedResult:
    """All parts as one file, part by part, so that memory holds one."""
    paths = sorted(parts.glob("part-*.parquet"))
    bad = [row for path in paths for row in csv.reader(io.StringIO(path.with_suffix(".csv").read_text()))]
    filled = [path for path in paths if pq.read_metadata(path).num_rows]
    if not filled:
        name, reason = bad[0]
        shutil.rmtree(parts)
        raise DataError(f"none of {len(bad)} images could be read, the first ({name}) because: {reason}")
    schema = pq.read_schema(filled[0]).with_metadata(cast(Any, about))
    temporary, images = parts / "joined.parquet", 0
    with pq.ParquetWriter(temporary, schema) as writer:
        for path in filled:
            table = pq.read_table(path)
            images += len(table)
            writer.write_table(table.replace_schema_metadata(cast(Any, about)))
    temporary.replace(out)
    quarantine = out.with_name(out.name + ".quarantine.csv")
    quarantine.unlink(missing_ok=True)
    if bad:
        atomic_write(quarantine, "id,reason\n" + _csv([(name, reason) for name, reason in bad]))
    return EmbedResult(out, images, schema.field("vector").type.list_size, len(bad), resumed)


def _csv(rows: list[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def digest(encoder: nn.Module) -> str:
    """A sum over all weights that tells one state from another: features of two encoders must not be mixed."""
    total = sum(float(value.double().abs().sum()) for value in encoder.state_dict().values())
    return f"{total:.12e}"
