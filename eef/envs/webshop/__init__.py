"""WebShop in one process: the original's pages, goals, search and reward, without a server or Java.

Data flow: records → columns → catalog, search index, goals → session → page → observation; a
finished session → reward.
"""

from eef.envs.webshop.catalog import Product
from eef.envs.webshop.env import WebShop
from eef.envs.webshop.official import Records
from eef.envs.webshop.settings import SyntheticSettings, WebShopSettings

__all__ = ["Product", "Records", "SyntheticSettings", "WebShop", "WebShopSettings"]
