"""UMAP (McInnes et al. 2018), by the package umap-learn, which is an extra of the server.

It computes without a pause, so it gets a process of its own: the server goes on, and who cancels ends it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import warnings
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import EndoscopeError, Unsupported

_PATIENCE = 0.01
_NEIGHBORS = 15


def check_installed() -> None:
    """Whether UMAP can be had.

    Raises:
        Unsupported: if umap-learn is not installed.
    """
    if importlib.util.find_spec("umap") is None:
        raise Unsupported(
            "this server has no UMAP: install endoscope[umap]", field="method", reason="UMAP_MISSING"
        )


def layout(features: NDArray[Any], dimensions: int, seed: int) -> Generator[None, None, NDArray[np.float32]]:
    """The layout (items x dimensions) of features (items x numbers); yields None while it is waited for."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_compute, args=(theirs, dimensions, seed), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.send(features)
        while not ours.poll(_PATIENCE):
            yield None
        try:
            answer = ours.recv()
        except EOFError:
            raise EndoscopeError(f"UMAP's process ended with code {process.exitcode}") from None
        if isinstance(answer, str):
            raise EndoscopeError(f"UMAP failed: {answer}")
        found: NDArray[np.float32] = answer
        return found
    finally:
        process.kill()
        process.join()
        ours.close()


def _compute(connection: Connection, dimensions: int, seed: int) -> None:
    try:
        import umap

        features = connection.recv()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapper = umap.UMAP(
                n_components=dimensions,
                n_neighbors=min(_NEIGHBORS, len(features) - 1),
                random_state=seed,
                n_jobs=1,
                init="random" if len(features) <= dimensions + 2 else "spectral",
            )
            connection.send(np.asarray(mapper.fit_transform(features), np.float32))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
