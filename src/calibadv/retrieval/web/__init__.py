"""Web search engines as retrievers: Google Programmable Search, SerpAPI, Serper, Brave and Tavily.

- `cache`: answers of search engines on disk, in one SQLite file: what was paid for once is not asked again
- `config`: how a web search engine is asked, in a run's configuration and in Python alike
- `providers`: the search engines: what each is sent, how its answer is read, and where its keys come from
- `rate_limit`: at most so many requests a second, from all threads together
- `retriever`: one client for all search engines: pace, retries, the cache, and keys that stay out of sight
"""

from calibadv.retrieval.web.cache import PageCache
from calibadv.retrieval.web.providers import ENGINES, Engine
from calibadv.retrieval.web.retriever import OnlineConfig, OnlineRetriever, open_online

__all__ = ["ENGINES", "Engine", "OnlineConfig", "OnlineRetriever", "PageCache", "open_online"]
