"""The JSON API, all under /api/v1: one module a resource, `root` assembles them."""
