"""A run folder written by hand, as the records of a run describe it."""

import io
import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

LINES = 300
EPOCHS = 30.0


def lines(count: int = LINES, probes: bool = True) -> list[dict]:
    """Metrics of a run whose loss falls from 1.8 to 0.7 through three phases."""
    records = []
    for step in range(1, count + 1):
        share = step / LINES
        phase = "near" if share < 0.4 else "far" if share < 0.7 else "random"
        loss = 0.7 + 1.1 * float(np.exp(-step / 20)) + 0.02 * (-1) ** step
        figures = {"epoch": share * EPOCHS, "samples": 64 * step, "time_s": 2.0 * step, "progress": share}
        figures |= {"loss": loss, "lr": 1e-3 * (1 - share), "images_per_s": 32.0, "phase": phase}
        records.append({"kind": "train", "step": step} | figures)
        if probes and step % 100 == 0:
            knn = 50.0 + step / 20
            records.append({"kind": "probe", "step": step, "epoch": share * EPOCHS, "samples": 64 * step, "knn": knn})
    return records


def picture(colour: tuple[int, int, int]) -> bytes:
    """A small PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(out, "PNG")
    return out.getvalue()


def write_run(folder: Path, records: list[dict] | None = None) -> Path:
    """Write the folder of a run and give it back."""
    (folder / "pictures").mkdir(parents=True)
    settings = {"data": ["<b>images</b>"], "model": "vit_tiny_patch16", "method": "selectivemae", "norm_pix": True}
    head = "# selectivemae: 0.1.0\n# command: pretrain --data images\n"
    (folder / "config.yaml").write_text(head + yaml.safe_dump(settings | {"epochs": 30.0, "init": None}))
    records = lines() if records is None else records
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "quarantine.csv").write_text(
        'id,reason,times\nzoo/a.jpg,truncated,2\nzoo/b.jpg,truncated,1\n"<script>alert(1)</script>",bomb,1\n'
    )
    for step, colour in ((100, (200, 0, 0)), (200, (0, 200, 0)), (300, (0, 0, 200))):
        (folder / "pictures" / f"reconstruction-{step:08d}.png").write_bytes(picture(colour))
    return folder


def write_checkpoint(run: Path, step: int, progress: float) -> Path:
    """A checkpoint's state, without weights."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    state = {"step": step, "epoch": 3, "consumed": 0, "samples": 64 * step, "elapsed_s": 2.0 * step}
    state |= {
        "epochs": progress * EPOCHS,
        "progress": progress,
        "ledger": "0",
        "identity": {"model": "vit_tiny_patch16"},
    }
    (folder / "state.json").write_text(json.dumps(state))
    return folder
