"""Tracker: per-layer metrics of a model while it trains."""

from spectrank.train.tracker.track import Tracker as Tracker
