"""CRC-32C (Castagnoli; RFC 3720, appendix B.4), as object stores, TFRecord and ext4 use it, in NumPy.

A checksum of this kind is linear: that of a block is the exclusive-or of what each byte gives at its place. So all
bytes of a block are looked up at once in a table by place and value, and only from block to block there is a loop.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # bits in reverse
_BLOCK = 512  # bytes looked up at once: the table of them (512 KiB) stays in the cache
_AT_ONCE = 1 << 20  # bytes whose places in the table are in memory at one time
_ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of ``data``, 32 bits."""
    single, places, shifts = _tables()
    if len(data) < 4:
        state = _ONES
        for byte in data:
            state = int(single[(state ^ byte) & 0xFF]) ^ (state >> 8)
        return state ^ _ONES
    # Zeros in front change nothing while the state is zero, and the state at the start belongs to the first four bytes.
    padded = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 0xFF
    state = 0
    first, second, third, fourth = shifts
    for low in range(0, len(padded), _AT_ONCE):
        blocks = padded[low : low + _AT_ONCE].reshape(-1, _BLOCK)
        at = blocks + np.arange(0, _BLOCK << 8, 256, dtype=np.intp)
        for block in np.bitwise_xor.reduce(places.take(at), axis=1).tolist():
            state = (
                first[state & 0xFF]
                ^ second[state >> 8 & 0xFF]
                ^ third[state >> 16 & 0xFF]
                ^ fourth[state >> 24]
                ^ block
            )
    return state ^ _ONES


@cache
def _tables() -> tuple[NDArray[np.uint32], NDArray[np.uint32], list[list[int]]]:
    """What a byte gives (256,); what a byte gives by its place in a block (``_BLOCK`` * 256,); and what the four bytes
    of a state, lowest first, become over a block of zeros."""
    single = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        single = np.where(single & 1, (single >> 1) ^ np.uint32(_POLYNOMIAL), single >> 1).astype(np.uint32)
    places = np.empty((_BLOCK, 256), np.uint32)
    places[-1] = single
    for at in range(_BLOCK - 2, -1, -1):
        places[at] = single[places[at + 1] & 0xFF] ^ (places[at + 1] >> 8)
    return single, places.reshape(-1), [places[byte].tolist() for byte in range(4)]
