"""Layouts of the models that jobs of late were for: made once each, whichever thread asks."""

from __future__ import annotations

import threading
from collections import OrderedDict

from farm.jobs.loading import ModelFiles
from farm.lora.layout import Layout
from farm.models import families

_MOST = 16


class Layouts:
    """Layouts by model key, the least recently used go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, Layout] = OrderedDict()

    def of(self, model: ModelFiles) -> Layout:
        with self._lock:
            found = self._made.get(model.key)
            if found is None:
                found = self._made[model.key] = families.layout(model.family, model.configs)
                if len(self._made) > _MOST:
                    self._made.popitem(last=False)
            self._made.move_to_end(model.key)
            return found
