"""That weights load as they should: every layout, stock timm in a separate process, ONNX, and RVSA's equations.

    python benchmarks/weights.py [--skip-onnx]

Checkpoints are synthetic: made in each project's layout from models with random weights, at depth 2 (ResNet-18 whole).
Features of the model a checkpoint was made from and of the model it was loaded into are compared.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "weights"), str(ROOT / "tests" / "models")]

import test_layouts  # noqa: E402
import test_rvsa  # noqa: E402
from synthetic_weights import prefixed, randomise, vit  # noqa: E402

from _table import markdown, write  # noqa: E402
from selectivemae.models.rvsa import SampledWindowAttention  # noqa: E402
from selectivemae.weights.convert import find_layout, fit, relabel  # noqa: E402
from selectivemae.weights.export import export  # noqa: E402
from selectivemae.weights.info import EncoderInfo, write_encoder  # noqa: E402
from selectivemae.weights.layouts import LAYOUTS  # noqa: E402
from selectivemae.weights.load import load_encoder  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-onnx", action="store_true")
    skip_onnx = parser.parse_args().skip_onnx
    torch.manual_seed(0)
    claims = [
        ("stock timm, strict, separate process without this package", f"{stock_timm():.1e}", "1e-5"),
        ("RVSA window attention against loops, float32", f"{rvsa():.1e}", "1e-5"),
    ]
    if not skip_onnx:
        claims.append(("ONNX, dynamic batch and image size, onnxruntime", f"{onnx():.1e}", "1e-4"))
    body = [
        markdown(("layout", "made from", "share", "matched", "missing", "unexpected", "dropped", "error"), layouts()),
        "Projects whose files cannot be used, and why:\n\n" + refusals(),
        markdown(("claim", "largest difference", "allowed"), claims),
    ]
    write("weights", "Weights that load", "python benchmarks/weights.py", *body)


def layouts() -> list[tuple[str, ...]]:
    """One row a layout: its coverage, and the largest difference of features."""
    cases: list[tuple[str, Callable[[], Any], Callable[[Any], Any]]] = list(test_layouts.CASES)
    cases.append(("rvsa", test_layouts.rvsa, lambda m: prefixed(dict(m.state_dict()), "backbone.")))
    rows: dict[str, tuple[str, ...]] = {}
    for name, make, rename in cases:
        if name in rows:
            continue
        source, target = make(), randomise(make(), seed=2)
        state = rename(source)
        by_name = next(layout for layout in LAYOUTS if layout.name == name).by_name
        layout = find_layout(state, name if by_name else None)
        fitted = fit(relabel(state, layout), target.state_dict())
        target.load_state_dict(fitted.state)
        channels = next(p.shape[1] for p in source.parameters() if p.ndim == 4)
        side = 64 if layout.family in ("vit", "rvsa", "dinov3") else 192
        images = torch.randn(1, channels, side, side)
        with torch.no_grad():
            error = float((source.forward_features(images) - target.forward_features(images)).abs().max())
        c = fitted.coverage
        counts = (len(names) for names in (c.matched, c.missing, c.unexpected, c.dropped))
        rows[name] = (name, layout.source, f"{c.share:.0%}", *map(str, counts), f"{error:.0e}")
    return list(rows.values())


def refusals() -> str:
    """Layouts that are known and refused."""
    return "\n".join(f"- {layout.name}: {layout.refusal}" for layout in LAYOUTS if layout.refusal)


def stock_timm() -> float:
    """Largest difference of features, stock timm in its own process against ``load_encoder``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.safetensors"
        write_encoder(path, vit(depth=12).state_dict(), EncoderInfo("vit_tiny_patch16_224", (64, 64)))
        shim = ROOT / "src/selectivemae/models/_torchvision.py"
        code = f"""
import sys, torch
from pathlib import Path
exec(compile(Path({str(shim)!r}).read_text(), "shim", "exec"))
ensure_torchvision()
import timm
from safetensors.torch import load_file
model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
model.load_state_dict(load_file({str(path)!r}), strict=True)
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
torch.save(model.forward_features(images).detach(), {str(path.with_suffix(".pt"))!r})
assert not any(name.startswith("selectivemae") for name in sys.modules)
"""
        subprocess.run([sys.executable, "-c", code], check=True)
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        encoder: Any = load_encoder(path)
        with torch.no_grad():
            return float((encoder.forward_features(images) - torch.load(path.with_suffix(".pt"))).abs().max())


def onnx() -> float:
    """Largest difference of tokens over three batches and image sizes."""
    with tempfile.TemporaryDirectory() as folder:
        return export("random:vit_tiny_patch16", "onnx", Path(folder), image_size=64).max_error


def rvsa() -> float:
    """Largest difference of window attention from its equations written as loops."""
    module = test_rvsa.randomised(SampledWindowAttention(8, 2))
    tokens = torch.randn(1, 8 * 15, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = test_rvsa.slow_windows(module, tokens[0], 8, 15)
        return float((module.float()(tokens.float(), 8, 15)[0] - expected.float()).abs().max())


if __name__ == "__main__":
    main()
