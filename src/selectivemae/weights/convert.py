"""From a foreign state dict to a model's: choose the branch, rename, drop, adapt, check.

Two pure functions: ``relabel`` needs the layout alone, ``fit`` the model's shapes as well. Nothing is left out
silently: every tensor ends up matched, dropped by name, or in the report.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor

from selectivemae.core.errors import WeightsError
from selectivemae.core.suggest import did_you_mean
from selectivemae.models.rvsa import resize_table
from selectivemae.weights.layouts import LAYOUTS, RGB_OF_BANDS, Layout

State = dict[str, Tensor]
Grid = tuple[int, int]

MIN_COVERAGE = 0.95
NOTHING = r"(?!)"  # a pattern that nothing matches
_BLOCK = re.compile(r"(?:blocks|layers?\d*)\.")


@dataclass(frozen=True)
class Coverage:
    """What became of the tensors: names of the model's (matched, missing, other shape) and of the file's (the rest)."""

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the model's tensors that the file fills, in [0, 1]."""
        return len(self.matched) / max(len(self.matched) + len(self.missing) + len(self.misshapen), 1)

    def __str__(self) -> str:
        text = f"{self.share:.1%} of the encoder: {len(self.matched)} tensors matched, {len(self.missing)} missing"
        lists = {"missing": self.missing, "other shape": self.misshapen, "unexpected": self.unexpected}
        named = "; ".join(f"{what}: {some(names)}" for what, names in lists.items() if names)
        return f"{text}, {len(self.unexpected)} unexpected, {len(self.dropped)} dropped" + (
            f" ({named})" if named else ""
        )


@dataclass(frozen=True)
class Relabelled:
    """A state dict under the target's names, with what was dropped and what no rule knows."""

    layout: Layout
    state: State
    dropped: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A state dict of the model's shapes, its coverage, and notes on what was adapted."""

    state: State
    coverage: Coverage
    notes: tuple[str, ...] = field(default=())


def find_layout(state: Mapping[str, Tensor], name: str | None = None, where: str = "weights") -> Layout:
    """The layout of a state dict, by its keys, or the one called ``name``.

    Raises ``WeightsError`` for an unknown name, for keys that no layout knows, and for a layout that cannot be used
    (the message says why). ``where`` names the file in messages.
    """
    if name is not None:
        layout = next((layout for layout in LAYOUTS if layout.name == name), None)
        if layout is None:
            known = [layout.name for layout in LAYOUTS]
            raise WeightsError(f"unknown layout {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    else:
        layout = next((layout for layout in LAYOUTS if not layout.by_name and _recognised(state, layout)), None)
        if layout is None:
            raise WeightsError(f"{where}: no known layout; keys like {some(state)}; --layout NAME forces one")
    if layout.refusal:
        raise WeightsError(f"{where}: {layout.refusal}")
    return layout


def relabel(state: Mapping[str, Tensor], layout: Layout, where: str = "weights") -> Relabelled:
    """Rename the keys of a layout to the target's: longest prefix that holds the anchor, renames, drop list.

    Raises ``WeightsError`` when no prefix holds the anchor and when two keys would get one name.
    """
    prefix = _branch(state, layout)
    if prefix is None:
        raise WeightsError(f"{where}: not of layout {layout.name}: no key {layout.anchor}; keys like {some(state)}")
    drop = re.compile("|".join(f"(?:{rule})" for rule in layout.drop) or NOTHING)
    out: State = {}
    source: dict[str, str] = {}
    dropped, unexpected = [], []
    for key, value in state.items():
        inside = key.startswith(prefix)
        name = key[len(prefix) :] if inside else key
        if drop.match(name) or drop.match(key):
            dropped.append(key)
            continue
        if not inside:
            unexpected.append(key)
            continue
        for pattern, replacement in layout.rename:
            name = re.sub(pattern, replacement, name)
        if name in out:
            raise WeightsError(f"{where}: names collide: {source[name]} and {key} both become {name}")
        out[name], source[name] = value, key
    for rule in layout.split:
        _split(out, *rule)
    return Relabelled(layout, out, tuple(dropped), tuple(unexpected))


def fit(
    relabelled: Relabelled,
    target: Mapping[str, Tensor],
    *,
    grid: Grid | None = None,
    source_grid: Grid | None = None,
    fresh: str = NOTHING,
    minimum: float = MIN_COVERAGE,
    partial: bool = False,
    where: str = "weights",
) -> Fitted:
    """Adapt relabelled weights to a model's state dict ``target`` (shapes alone are read) and check them.

    Positions are resampled to ``grid`` (rows, columns of patches; square when not given), tables of relative
    positions along their length, input channels adapted. Tensors that match the pattern ``fresh`` may be missing:
    a backbone that starts from a plainer one's weights lacks them. Raises ``WeightsError`` naming keys when less
    than ``minimum`` of the model's tensors are covered, or any of a block (a layer at random amid trained ones spoils
    all), unless a ``partial`` encoder is wanted.
    """
    state, notes = dict(relabelled.state), []
    if (positions := target.get("pos_embed")) is not None and "pos_embed" in state:
        state["pos_embed"], said = _fit_positions(state["pos_embed"], positions, grid, source_grid)
        notes += said
    for name in relabelled.layout.inputs:
        if name in state and name in target and state[name].shape[1] != target[name].shape[1]:
            state[name], said = adapt_channels(state[name], target[name].shape[1], where)
            notes.append(said)
    for name in [key for key in target if re.fullmatch(r".*\.rel_pos_[hw]", key) and key in state]:
        if state[name].shape != target[name].shape:
            notes.append(f"{name} resized from {shape(state[name])} to {shape(target[name])}")
            state[name] = resize_table(state[name], target[name].shape[0])
    own = [key for key in target if key not in state and re.fullmatch(fresh, key)]
    if own:
        notes.append(f"{len(own)} tensors that a plain encoder lacks start fresh: {some(own, 2)}")
    matched = [key for key in target if key in state and state[key].shape == target[key].shape]
    misshapen = [
        f"{key} {shape(state[key])}, the model's {shape(target[key])}"
        for key in target
        if key in state and state[key].shape != target[key].shape
    ]
    missing = [key for key in target if key not in state and key not in own]
    extra = [key for key in state if key not in target]
    coverage = Coverage(
        tuple(matched), tuple(missing), tuple(misshapen), (*relabelled.unexpected, *extra), relabelled.dropped
    )
    if not partial:
        if coverage.share < minimum:
            raise WeightsError(f"{where}: layout {relabelled.layout.name} covers only {coverage}")
        if holes := [key for key in (*missing, *misshapen) if _BLOCK.match(key)]:
            raise WeightsError(
                f"{where}: layout {relabelled.layout.name} leaves holes in the blocks: {some(holes)}; "
                "load_encoder(..., partial=True) takes such a file"
            )
    if missing or misshapen:
        notes.append(f"{len(missing) + len(misshapen)} tensors keep their fresh values: {some((*missing, *misshapen))}")
    return Fitted({key: state[key] for key in matched}, coverage, tuple(notes))


def resample_positions(positions: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Positions (1, prefix + h*w, E) of grid ``old`` at grid ``new``; the ``prefix`` rows of class token stay.

    Bicubic, corners not aligned, no anti-aliasing, as the published fine-tunings do it.
    """
    head, body = positions[:, :prefix], positions[:, prefix:]
    image = body.reshape(1, *old, -1).permute(0, 3, 1, 2)
    image = torch.nn.functional.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat([head, image.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)], dim=1)


def adapt_channels(weight: Tensor, channels: int, where: str = "weights") -> tuple[Tensor, str]:
    """Kernels (E, C, p, p) for another number of input channels, and what was done, in words.

    More channels: the old ones in turn, scaled by C / channels, so that equal channels give the old response. One
    channel: their sum. Three of a known band set: red, green and blue, unscaled. Raises ``WeightsError`` otherwise.
    """
    old = weight.shape[1]
    said = f"input channels {old} -> {channels}"
    if channels > old:
        kernels = weight[:, torch.arange(channels) % old] * (old / channels)
        return kernels, f"{said}: repeated, scaled by {old}/{channels}"
    if channels == 1:
        return weight.sum(1, keepdim=True), f"{said}: summed"
    if channels == 3 and old in RGB_OF_BANDS:
        bands = RGB_OF_BANDS[old]
        return weight[:, list(bands)], f"{said}: bands {bands} (red, green, blue) taken, not scaled"
    raise WeightsError(f"{where}: made for {old} input channels, no rule leads to {channels}; set in_chans={old}")


def some(names: Iterable[str], count: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def shape(tensor: Tensor) -> str:
    """``1x197x768``."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def _branch(state: Mapping[str, Tensor], layout: Layout) -> str | None:
    """The longest prefix of the layout under which the anchor lies; None if there is none."""
    held = [prefix for prefix in layout.prefixes if prefix + layout.anchor in state]
    return max(held, key=len) if held else None


def _recognised(state: Mapping[str, Tensor], layout: Layout) -> bool:
    if _branch(state, layout) is None:
        return False
    return all(any(re.search(mark, key) for key in state) for mark in layout.marks)


def _split(state: State, pattern: str, parts: tuple[str | None, ...]) -> None:
    """Replace each tensor whose name matches by its equal parts along dim 0, under new names (None: left out)."""
    for key in [key for key in state if re.fullmatch(pattern, key)]:
        for name, piece in zip(parts, state.pop(key).chunk(len(parts)), strict=True):
            if name is not None:
                state[re.sub(pattern, name, key)] = piece


def _fit_positions(
    positions: Tensor, target: Tensor, grid: Grid | None, source_grid: Grid | None
) -> tuple[Tensor, list[str]]:
    """The file's positions for the model's grid, with or without the row of a class token as the model has it."""
    notes: list[str] = []
    count, wanted = positions.shape[1], target.shape[1]
    grid = grid or (isqrt(wanted), isqrt(wanted))
    prefix = wanted - grid[0] * grid[1]
    old = source_grid or (isqrt(count), isqrt(count))
    held = count - old[0] * old[1]
    if positions.ndim != 3 or held not in (0, 1) or prefix not in (0, 1):
        return positions, notes  # not a grid of positions: the shape check names it
    if held > prefix:
        positions = positions[:, 1:]
    elif held < prefix:
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        notes.append("positions hold no row for the class token: 0")
    if old != grid:
        positions = resample_positions(positions, old, grid, prefix)
        notes.append(f"positions resampled from {old[0]}x{old[1]} to {grid[0]}x{grid[1]} patches (bicubic)")
    return positions, notes
