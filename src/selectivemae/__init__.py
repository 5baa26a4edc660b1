"""selectivemae: pre-train, judge and fine-tune vision models on satellite and aerial imagery.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selectivemae.core.version import __version__

if TYPE_CHECKING:
    from selectivemae.core.errors import UserError
    from selectivemae.core.order import sample_key
    from selectivemae.data.stores import open_store
    from selectivemae.models.create import create_model
    from selectivemae.pretrain.config import PretrainConfig
    from selectivemae.pretrain.run import pretrain
    from selectivemae.weights.load import load_encoder
    from selectivemae.weights.pretraining import load_pretraining_model

_WHERE = {
    "UserError": "core.errors",
    "PretrainConfig": "pretrain.config",
    "create_model": "models.create",
    "load_encoder": "weights.load",
    "load_pretraining_model": "weights.pretraining",
    "open_store": "data.stores",
    "pretrain": "pretrain.run",
    "sample_key": "core.order",
}

__all__ = [
    "PretrainConfig",
    "UserError",
    "__version__",
    "create_model",
    "load_encoder",
    "load_pretraining_model",
    "open_store",
    "pretrain",
    "sample_key",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"selectivemae.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'selectivemae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
