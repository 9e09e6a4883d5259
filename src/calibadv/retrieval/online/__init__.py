"""Web search engines as retrievers: Google Programmable Search, SerpAPI, Serper, Brave and Tavily.

Map: ``engines`` is the table of engines (what is sent, how answers are read, where the keys come from), ``client`` has
`OnlineRetriever`, the one client for all of them, ``cache`` keeps answers on disk, ``pace`` limits requests a second.

What an engine finds changes from day to day: figures from it cannot be repeated without its cache.
"""

from calibadv.retrieval.online.cache import PageCache
from calibadv.retrieval.online.client import OnlineConfig, OnlineRetriever, open_online
from calibadv.retrieval.online.engines import ENGINES, Engine

__all__ = ["ENGINES", "Engine", "OnlineConfig", "OnlineRetriever", "PageCache", "open_online"]
