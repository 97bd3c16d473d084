"""What is drawn, from a hash of what it is about: no order of files, rows or workers has a part in it."""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_HASHED = 1 << 16  # ids that are Python's own at a time


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(_digest(key)[:7]) / 2**56


def seed_of(*key: object) -> int:
    """A seed of 63 bits that depends on the key alone."""
    return int.from_bytes(_digest(key)[:8]) >> 1


def _digest(key: tuple[object, ...]) -> bytes:
    return hashlib.sha256("\0".join(map(str, key)).encode()).digest()


def uniforms(ids: pa.Array, rows: npt.NDArray[np.int64], *key: object) -> npt.NDArray[np.float64]:
    """uniform(*key, id) of the ids at `rows`, to the last bit."""
    sha256, prefix = hashlib.sha256, "".join(f"{part}\0" for part in key).encode()
    values = np.empty(len(rows))
    for start in range(0, len(rows), _HASHED):
        some = ids.take(pa.array(rows[start : start + _HASHED])).cast(pa.large_binary())
        digests = b"".join([sha256(prefix + each).digest() for each in some.to_numpy(zero_copy_only=False)])
        values[start : start + _HASHED] = (np.frombuffer(digests, ">u8")[::4] >> 8) / 2**56
    return values
