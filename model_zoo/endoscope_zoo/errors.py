"""What can go wrong in the zoo, in a sentence for people."""

from __future__ import annotations


class ZooError(Exception):
    """The zoo could not do what was asked."""


class MissingPackage(ZooError):
    """A recipe needs a package that is not installed."""


class DownloadError(ZooError):
    """A file could not be had: no network, no such file, cut off."""


class ChecksumMismatch(DownloadError):
    """A file arrived that is not the one expected."""
