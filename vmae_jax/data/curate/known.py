"""What --against names: clips that the new set must not hold."""

import concurrent.futures
import dataclasses
import os

import numpy as np
from etils import epath

from vmae_jax.data import clips
from vmae_jax.data.cores import cores
from vmae_jax.data.curate.fingerprints import Fingerprints, load_fingerprints, save_fingerprints
from vmae_jax.data.curate.hashes import frame_hash
from vmae_jax.data.curate.items import HASHES_PER_SECOND, Clip, CurationError
from vmae_jax.data.records import Dataset, DatasetError, RecordError, ShardError, open_dataset

FILE = "curation/fingerprints"  # of a curated set
_SIDE = 64  # pixels of the pictures that are hashed


def load(path: str, split: str, cache: str) -> Fingerprints:
    """Fingerprints of a curated set, of a file of them, or of a dataset directory.

    Args:
      path: the set, or its file.
      split: of a dataset directory: 'val', 'train+val'.
      cache: folder that keeps the fingerprints of dataset directories.

    Raises:
      CurationError: where it is none of these, or cannot be read.
    """
    name = f"{path}:{split}" if split else path
    for file in (path, f"{path.rstrip('/')}/{FILE}"):
        if not split and epath.Path(file).is_file():
            return dataclasses.replace(load_fingerprints(file), name=name)
    try:
        dataset = open_dataset(path, split or "train")
    except (DatasetError, ShardError) as error:
        raise CurationError(
            f"--against={path}: neither fingerprints nor a dataset directory ({error})"
        ) from error
    file = os.path.join(cache, dataset.fingerprint)
    if not os.path.exists(file):
        os.makedirs(cache, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            found = list(pool.map(lambda i: _clip(dataset, i), range(len(dataset.source))))
        save_fingerprints(file, [found], {})
    return dataclasses.replace(load_fingerprints(file), name=name)


def _clip(dataset: Dataset, number: int) -> Clip:
    """A record's hashes, as those of a clip of a curated set."""
    try:
        record = clips.Record.parse(dataset.source[number])
        times = np.arange(0, record.num_frames / record.fps, 1 / HASHES_PER_SECOND)
        frames = np.minimum((times * record.fps).astype(np.int64), record.num_frames - 1)
        pictures = clips.decode_frames(record, frames, short_side=_SIDE)
    except (RecordError, ShardError) as error:
        raise CurationError(f"--against={dataset.path}: {error}") from error
    return Clip(record.id, 0, 0.0, 0.0, hashes=np.array(list(map(frame_hash, pictures))))
