"""What one client may ask of the server."""

from dataclasses import dataclass, fields

__all__ = ["Limits"]

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Above them a request is refused. Raises ValueError for a number that is not positive."""

    queue: int = 32
    """Requests that wait for a worker. The next is answered 503."""
    body: int = 64 * MIB
    """Bytes of a body, unpacked. 413."""
    bodies: int = 256 * MIB
    """Bytes of all bodies that are held at once, as they are sent. 503."""
    headers: int = 32 << 10
    """Bytes of a request's first line and headers. 431."""
    seconds: float = 20.0
    """In which a request must have been received, 408, and its answer read."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value >= (0 if item.name == "queue" else 1):
                raise ValueError(f"limits: {item.name} is {value!r}, expected a positive number")
