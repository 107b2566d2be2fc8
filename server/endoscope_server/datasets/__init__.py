"""Images on disk, their features in a store that outlives the run, and the engines that fill it."""

from endoscope_server.datasets.digests import Digests
from endoscope_server.datasets.engine import PIXELS, Engine, Extraction, LocalEngine, peaks_of
from endoscope_server.datasets.footprint import feature_bytes, scan_memory
from endoscope_server.datasets.library import Dataset, Library
from endoscope_server.datasets.ray_engine import RayEngine, open_engine
from endoscope_server.datasets.scan import ScanParameters, ScanResult, ScanStep, scan
from endoscope_server.datasets.sources import Item, Source, open_source
from endoscope_server.datasets.store import FeatureKey, FeatureStore, FeatureTable, FeatureView

__all__ = [
    "PIXELS",
    "Dataset",
    "Digests",
    "Engine",
    "Extraction",
    "FeatureKey",
    "FeatureStore",
    "FeatureTable",
    "FeatureView",
    "Item",
    "Library",
    "LocalEngine",
    "RayEngine",
    "ScanParameters",
    "ScanResult",
    "ScanStep",
    "Source",
    "feature_bytes",
    "open_engine",
    "open_source",
    "peaks_of",
    "scan",
    "scan_memory",
]
