"""Web search as a retriever: Serper and SerpAPI are built in, others can be plugged in.

- `cache`: answers of search providers on disk, in one SQLite file: what was paid for once is not asked again
- `config`: how a search provider is asked, in a run's configuration and in Python alike
- `providers`: the search providers: what each is sent, how its answer is read, and where its keys come from
- `rate_limit`: at most so many requests a second, from all threads together
- `retriever`: one client for all search providers: rate limit, retries, the cache, and keys that stay out of sight
"""

from calibadv.retrieval.web.cache import PageCache
from calibadv.retrieval.web.config import WebSearchConfig
from calibadv.retrieval.web.providers import PROVIDERS, Provider, results_in
from calibadv.retrieval.web.retriever import OnlineRetriever, open_online

__all__ = ["PROVIDERS", "OnlineRetriever", "PageCache", "Provider", "WebSearchConfig", "open_online", "results_in"]
