"""What happens to files on disks."""

from pathlib import Path


def flip_a_bit(path: Path) -> None:
    """Turn the lowest bit of the byte in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    """Leave its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
