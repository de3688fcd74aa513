"""A clock that goes only while somebody sleeps by it."""

from collections.abc import Callable


class Clock:
    """In the place of a module's `time`. `meanwhile` is what others do during each sleep."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.meanwhile = meanwhile

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()
