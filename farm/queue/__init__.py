"""Messages and events through Redis. Nothing here is the truth."""
