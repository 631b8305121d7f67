"""WebShop in one process: the original's pages, goals, search and reward, without HTML, a server or Java.

catalogue → search, goals → session → pages → observation; session → reward.
"""

from eef.envs.webshop.catalogue import Product, Records
from eef.envs.webshop.env import WebShop

__all__ = ["Product", "Records", "WebShop"]
