"""Where bytes lie: folders, zips, tars and shards behind one small interface."""

from selectivemae.data.stores.base import Progress, Skipped, Store
from selectivemae.data.stores.opening import open_store, open_stores

__all__ = ["Progress", "Skipped", "Store", "open_store", "open_stores"]
