"""Images on disk, their features in a store that outlives the run, and the engines that fill it."""

from endoscope_server.datasets.engine import Engine, Extraction, LocalEngine
from endoscope_server.datasets.library import Dataset, Library
from endoscope_server.datasets.scan import ScanParameters, ScanResult, ScanStep, scan
from endoscope_server.datasets.sources import Item, Source, open_source
from endoscope_server.datasets.store import FeatureKey, FeatureStore, FeatureTable

__all__ = [
    "Dataset",
    "Engine",
    "Extraction",
    "FeatureKey",
    "FeatureStore",
    "FeatureTable",
    "Item",
    "Library",
    "LocalEngine",
    "ScanParameters",
    "ScanResult",
    "ScanStep",
    "Source",
    "open_source",
    "scan",
]
