"""VideoMAE V2 in JAX: pre-train, fine-tune and use video masked autoencoders.

In a notebook, `vmae_jax.load` opens a checkpoint of any kind.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_FROM_MODEL = ("Model", "load")


def __getattr__(name: str) -> Any:
    """Loads what needs jax when it is first asked for: `import vmae_jax` alone is free."""
    if name in _FROM_MODEL:
        return getattr(importlib.import_module("vmae_jax.model"), name)
    raise AttributeError(f"module 'vmae_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM_MODEL])
