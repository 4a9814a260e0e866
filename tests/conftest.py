"""Shared by all tests: a CPU with 8 simulated devices, and where the larger reference data lies."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Before jax starts: the tests of sharding need several devices, and none needs an accelerator. On
# one (JAX_PLATFORMS=cuda pytest tests/models) products of float32 are to be as exact as on CPUs,
# and the workers share its memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# A device holds a thread of XLA's while it waits for the others: with as few threads as devices, or
# as cores, the last one may find none, and all wait until XLA ends the process.
os.environ.setdefault("PJRT_NPROC", "16")
# Compiling takes longer than the small models run. JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest tests
# what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and version("jaxlib").startswith("0.10."):
    # XLA ends a process for a flag that it does not know, as that of 0.12 does for this one.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Every core has a worker of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Many tests and the runs that they start compile the same programs: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="vmae-jax-cache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis
import pytest

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")

GOLDENS = Path(__file__).parent / "goldens"
# They begin first: a long file that begins last leaves all but one worker idle.
LONG = ("test_hosts.py", "test_kill.py", "test_notebooks.py", "test_train.py", "test_finetune.py")
SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


@pytest.fixture
def goldens() -> Path:
    """Folder of the reference's small inputs and outputs, committed with the tests."""
    return GOLDENS


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real videos and the larger goldens; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference videos and goldens in {SHARED.name}/ beside the project")
    return SHARED
