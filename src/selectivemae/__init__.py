"""selectivemae: pre-train, judge and fine-tune vision models on satellite and aerial imagery.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selectivemae.core.version import __version__

if TYPE_CHECKING:
    from selectivemae.cli.pretrain import run as pretrain
    from selectivemae.core.errors import UserError
    from selectivemae.core.order import sample_key
    from selectivemae.data.stores import open_store
    from selectivemae.models.create import create_model
    from selectivemae.pretrain.config import PretrainConfig
    from selectivemae.weights.load import load_encoder
    from selectivemae.weights.pretraining import load_pretraining_model

_WHERE = {
    "PretrainConfig": "pretrain.config:PretrainConfig",
    "UserError": "core.errors:UserError",
    "create_model": "models.create:create_model",
    "load_encoder": "weights.load:load_encoder",
    "load_pretraining_model": "weights.pretraining:load_pretraining_model",
    "open_store": "data.stores:open_store",
    "pretrain": "cli.pretrain:run",
    "sample_key": "core.order:sample_key",
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
        module, _, attribute = _WHERE[name].partition(":")
        return getattr(import_module(f"selectivemae.{module}"), attribute)
    raise AttributeError(f"module 'selectivemae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
