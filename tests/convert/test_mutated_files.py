"""Two hundred damaged checkpoints: an error, or the right weights.

An archive of torch.save has a CRC-32 for every entry, so any damage to it is found. Safetensors and
the old .pth format have no checksum: there, damage to the structure must be found, and damage to a
number only where it makes one that no training leaves (not finite, or beyond 1e6). A flipped digit
within a weight cannot be told from a weight.
"""

import collections
import datetime
import pathlib
import random
import struct

import numpy as np
import pytest
import tiny_weights
import torch

from vmae_jax.config import ModelConfig
from vmae_jax.convert import load, rules, save
from vmae_jax.convert.rules import ConversionError

TINY = ModelConfig(variant="16x2x2x24+8x1x2x12", image_size=8, num_frames=2, patch_size=4)
KNOWN = {"heads": 2, "decoder_heads": 2, "image_size": 8, "num_frames": 2}


def mutate(data: bytes, rng: random.Random, end: int) -> bytes:
    """One kind of damage somewhere in the first `end` bytes."""
    damaged = bytearray(data)
    at = rng.randrange(end)
    kind = rng.choice(("bit", "byte", "cut", "hole", "insert", "zeros"))
    if kind == "bit":
        damaged[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        damaged[at] = rng.randrange(256)
    elif kind == "cut":
        del damaged[at:]
    elif kind == "hole":
        del damaged[at : at + rng.randrange(1, 64)]
    elif kind == "insert":
        damaged[at:at] = rng.randbytes(rng.randrange(1, 64))
    else:
        damaged[at : at + 16] = bytes(len(damaged[at : at + 16]))
    return bytes(damaged)


def outcome(path, wanted):
    """'refused' or 'right'; anything else fails."""
    try:
        found = load.load(str(path), **KNOWN)
    except ConversionError:
        return "refused"
    assert (found.kind, found.model.encoder) == (wanted.kind, wanted.model.encoder)
    np.testing.assert_equal(rules.flatten(found.params), rules.flatten(wanted.params))
    return "right"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_is_an_error_or_does_no_harm(tmp_path, kind):
    wanted = tiny_weights.random("pretrain", TINY)
    path = tmp_path / ("good.safetensors" if kind == "safetensors" else "good.pth")
    save.save(wanted, str(path), "original")
    if kind == "legacy":  # with all that is read of settings and not kept
        content = torch.load(path, weights_only=True)
        content["args"] |= {"output_dir": pathlib.Path("x"), "day": datetime.date(2026, 1, 2)}
        content["args"] |= {"lr": np.float64(1e-3), "seen": collections.Counter("ab")}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert outcome(path, wanted) == "right"
    end = len(data) if kind == "zip" else structure(data)  # where damage has to be found

    rng, seen = random.Random(kind), {"refused": 0, "right": 0}
    for _ in range(100 if kind == "zip" else 50):
        path.write_bytes(mutate(data, rng, end))
        seen[outcome(path, wanted)] += 1
    assert seen["refused"] >= 25, seen


def structure(data: bytes) -> int:
    """Bytes before the first number of a file without checksums."""
    if data.startswith(b"\x80"):  # the last pickle of a legacy file lists the storages
        return data.index(b".", data.rindex(b"\x80\x02]")) + 1
    return 8 + struct.unpack("<Q", data[:8])[0]


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_damaged_numbers_crash_nothing(tmp_path, kind):
    """They are refused where they are absurd; else the weights have the same shapes, no more."""
    wanted = tiny_weights.random("pretrain", TINY)
    path = tmp_path / ("good.safetensors" if kind == "safetensors" else "good.pth")
    save.save(wanted, str(path), "original")
    if kind == "legacy":
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    start = structure(data)
    rng = random.Random(kind)
    for _ in range(25):
        damaged = bytearray(data)
        damaged[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            found = load.load(str(path), **KNOWN)
        except ConversionError:
            continue
        for name, value in rules.flatten(found.params).items():
            assert value.shape == rules.flatten(wanted.params)[name].shape
            assert np.abs(value).max() <= 1e6
