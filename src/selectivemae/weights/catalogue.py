"""Published weights by name: what each file holds, where it lies, and under which name a file got by hand is kept.

WEIGHTS_FOLDER/               $SELECTIVEMAE_WEIGHTS, else ~/.cache/selectivemae/weights
  NAME.safetensors            all tensors of the published file, decoder included; nothing else of it
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from safetensors.torch import save

from selectivemae.core.errors import WeightsError
from selectivemae.core.files import atomic_write
from selectivemae.core.suggest import did_you_mean
from selectivemae.weights.convert import find_layout, fit, relabel
from selectivemae.weights.families import build
from selectivemae.weights.files import read_state_dict
from selectivemae.weights.hub import SUFFIXES, explained, fetch

HUB = "initiacms/SelectiveMAE"


@dataclass(frozen=True)
class Published:
    """One published file. ``page`` is where a person downloads it; ``hub`` a repository from which we can."""

    name: str
    method: str
    architecture: str
    data: str
    images: str
    epochs: int
    page: str
    hub: str = ""
    hints: tuple[str, ...] = ()  # parts of the file's name on the hub, in lower case

    @property
    def contents(self) -> str:
        """What the file holds, in words."""
        return f"{self.method} {self.architecture}, encoder and decoder, {self.images} images of {self.data}"


def _drive(code: str) -> str:
    return f"https://pan.baidu.com/s/{code}"


PUBLISHED: tuple[Published, ...] = (
    Published(
        "selectivemae-vit-base-opticalrs-4m", "SelectiveMAE", "vit_base_patch16", "OpticalRS-4M", "4 M", 800,
        _drive("1Y4WBj35-HAKeZJe125TG8Q?pwd=0330"), HUB, ("base", "4m"),
    ),
    Published(
        "selectivemae-vit-large-opticalrs-4m", "SelectiveMAE", "vit_large_patch16", "OpticalRS-4M", "4 M", 800,
        _drive("1miSlmoeZLjzc_WgXE87Fxg?pwd=0330"), HUB, ("large", "4m"),
    ),
    Published(
        "selectivemae-vit-base-opticalrs-13m", "SelectiveMAE", "vit_base_patch16", "OpticalRS-13M", "13 M", 800,
        _drive("1_QNLBGhrViapquDcVZHnkw?pwd=bmzj"), HUB, ("base", "13m"),
    ),
    Published(
        "selectivemae-vit-large-opticalrs-13m", "SelectiveMAE", "vit_large_patch16", "OpticalRS-13M", "13 M", 800,
        _drive("10HJ_kZwW2nxNqDNjJRb6SQ?pwd=eyjn"), HUB, ("large", "13m"),
    ),
    Published(
        "mae-vit-base-millionaid", "MAE", "vit_base_patch16", "MillionAID", "1 M", 800,
        _drive("1OCl7whWnYoyrAI8zha_Kbg?pwd=0330"),
    ),
    Published(
        "mae-vit-base-opticalrs-2m", "MAE", "vit_base_patch16", "OpticalRS-4M", "2 M", 400,
        _drive("1-6HBRbAyHMUrTSwcSOIhyw?pwd=0330"),
    ),
    Published(
        "mae-vit-base-opticalrs-3m", "MAE", "vit_base_patch16", "OpticalRS-4M", "3 M", 267,
        _drive("1S_oTibDouAi-VrmESn7qPg?pwd=0330"),
    ),
    Published(
        "mae-vit-base-opticalrs-4m", "MAE", "vit_base_patch16", "OpticalRS-4M", "4 M", 200,
        _drive("1zmS24CqFo44Rkkkl2YqeaQ?pwd=0330"),
    ),
    Published(
        "mae-vit-base-opticalrs-4m-800", "MAE", "vit_base_patch16", "OpticalRS-4M", "4 M", 800,
        _drive("1Qrgtv7Dotfb_QQ2GCk6bog?pwd=0330"),
    ),
)  # fmt: skip


def find_published(name: str) -> Published:
    """The entry called ``name``; raises ``WeightsError`` with the nearest name."""
    for entry in PUBLISHED:
        if entry.name == name:
            return entry
    raise WeightsError(f"no published weights {name!r}{did_you_mean(name, names())}; see selectivemae weights list")


def names() -> list[str]:
    """The names of all published weights."""
    return [entry.name for entry in PUBLISHED]


def weights_folder() -> Path:
    """Where published weights are kept."""
    chosen = os.environ.get("SELECTIVEMAE_WEIGHTS")
    return Path(chosen) if chosen else Path.home() / ".cache" / "selectivemae" / "weights"


def kept_file(name: str, folder: Path | None = None) -> Path:
    """The file of published weights that were got before; raises ``WeightsError`` saying how to get them."""
    entry, path = find_published(name), (folder or weights_folder()) / f"{name}.safetensors"
    if path.is_file():
        return path
    if entry.hub:
        raise WeightsError(f"{name} is not here yet: selectivemae weights get {name}")
    raise WeightsError(
        f"{name} is not here yet: download it by hand from {entry.page} (a cloud drive that no program may read), "
        f"then selectivemae weights get {name} --file PATH"
    )


def get(
    name: str, file: Path | None = None, folder: Path | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """Fetch published weights from the hub, or take the ``file`` that a person downloaded, and keep them by name.

    The file is checked to hold the architecture it should, and kept as safetensors. Raises ``WeightsError`` when it
    does not, and when the weights lie on a cloud drive and no file is given.
    """
    entry = find_published(name)
    if file is None and not entry.hub:
        return kept_file(name, folder)
    source = file or _from_hub(entry)
    state = read_state_dict(source)
    layout = find_layout(state, where=str(source))
    relabelled = relabel(state, layout, str(source))
    built = build(layout.family, relabelled.state, (224, 224), 3, str(source))
    if not built.name.startswith(entry.architecture):
        raise WeightsError(f"{source}: holds a {built.name}, but {name} is a {entry.architecture}")
    fitted = fit(relabelled, built.model.state_dict(), grid=built.grid, where=str(source))
    if say:
        say(f"{source}: layout {layout.name} as {built.name}, {fitted.coverage}")
    path = (folder or weights_folder()) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save({key: value.contiguous() for key, value in state.items()}, {"format": "pt", "name": name}))
    return path


def _from_hub(entry: Published) -> Path:
    """The entry's file among those of its repository, told by the parts of its name."""
    with explained(f"hf:{entry.hub}"):
        files = [name for name in HfApi().list_repo_files(entry.hub) if name.endswith(SUFFIXES)]
    found = [name for name in files if all(_has(name, hint) for hint in entry.hints)]
    if len(found) != 1:
        raise WeightsError(
            f"{entry.name}: which file of hf:{entry.hub} is meant is not clear; download one of "
            f"{', '.join(files) or 'none'} and give it as --file"
        )
    return fetch(entry.hub, found[0])


def _has(name: str, hint: str) -> bool:
    """Whether a file's name holds a hint, not as the end of a longer number (``4m`` is not in ``14m``)."""
    return re.search(rf"(?<!\d){hint}", name.lower()) is not None
