"""Train deep search agents with calibrated advantages (CalibAdv, arXiv 2604.18235)."""

__version__ = "0.1.0"
