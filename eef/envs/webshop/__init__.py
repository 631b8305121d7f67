"""WebShop in one process: the original's pages, goals, search and reward, without HTML, a server or Java.

records → columns → catalog, search, goals → session → pages → observation; session → reward.
"""

from eef.envs.webshop.catalog import Product
from eef.envs.webshop.env import WebShop
from eef.envs.webshop.official import Records

__all__ = ["Product", "Records", "WebShop"]
