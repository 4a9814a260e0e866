"""Shared by all tests: a CPU with 8 simulated devices, and where the larger reference data lies."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before jax starts: the tests of sharding need several devices, and none needs an accelerator. On
# one (JAX_PLATFORMS=cuda pytest tests/models) products of float32 are to be as exact as on CPUs.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Many tests and the runs that they start compile the same programs: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="vmae-jax-cache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest

GOLDENS = Path(__file__).parent / "goldens"
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def goldens() -> Path:
    """Folder of the reference's small inputs and outputs, committed with the tests."""
    return GOLDENS


@pytest.fixture
def shared() -> Path:
    """Folder of real videos and the larger goldens; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference videos and goldens in {SHARED.name}/ beside the project")
    return SHARED
