"""Cache of the features of views that recur, such as the fixed source views of a scene."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from geometry.errors import InputError
from models.vggt.frozen import FrozenFeatures


class FeatureCache:
    """Least recently used features go first when the memory bound is reached."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds the tensors held; features larger than it are computed every time."""
        if max_bytes < 0:
            raise InputError(f"max_bytes must be 0 or more, got {max_bytes}")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, FrozenFeatures] = OrderedDict()

    def __len__(self) -> int:
        """Number of entries held."""
        return len(self._entries)

    def get(self, key: Hashable, compute: Callable[[], FrozenFeatures]) -> FrozenFeatures:
        """The features under `key`, computed and kept if they are not there."""
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key]
        self.misses += 1
        features = compute()
        if features.num_bytes <= self.max_bytes:
            self._entries[key] = features
            self.num_bytes += features.num_bytes
            while self.num_bytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= oldest.num_bytes
        return features

    def clear(self) -> None:
        """Forget all features; the counters stay."""
        self._entries.clear()
        self.num_bytes = 0
