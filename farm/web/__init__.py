"""Dashboard and API: Flask, server-rendered. Never imports torch."""
