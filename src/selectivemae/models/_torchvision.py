"""Makes ``import torchvision`` work beside a CPU build of torch, because timm cannot be imported without it.

The torchvision wheels of the public package index link CUDA libraries. Next to a torch without CUDA their compiled
extension does not load, so the operators that torchvision describes at import do not exist and the import ends with
``operator torchvision::nms does not exist``. Declaring the two that it describes is enough for everything
written in Python (``transforms``, ``timm``); the compiled functions (``torchvision.ops.nms``, ``io.decode_jpeg``) still
raise when called, and nothing here calls them.
"""

import sys
from functools import cache
from importlib import import_module
from types import ModuleType

from torch.library import Library

OPERATORS = ("nms", "qnms")


def ensure_torchvision() -> ModuleType:
    """Import torchvision and return it; call this before the first ``import timm``.

    A healthy installation is left alone: the operators are declared only after a plain import has failed for want of
    them, since a second declaration would clash with the compiled one. Any other failure is raised as it is.
    """
    try:
        return import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    return import_module("torchvision")


@cache  # the declarations live as long as the Library object, so one is kept for ever
def _declare_operators() -> Library:
    library = Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
