"""The version of this package, for messages, headers and manifests."""

__version__ = "0.1.0"
