"""CRC-32C against the check values of RFC 3720 and a bit-by-bit division."""

import numpy as np
import pytest

from selectivemae.ops.crc32c import crc32c


def by_bits(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_check_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [*range(1, 10), 511, 512, 513, 515, 516, 1024, 5000, (1 << 20) + 3])
def test_any_length(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == by_bits(data)
