"""SQL: engine, types, typed models."""
