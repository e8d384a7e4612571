"""Adapters: reading, detection, patching. Knows nothing of queues, databases or HTTP."""
