"""Registers every page of the dashboard with the application."""

from __future__ import annotations

from flask import Flask

from farm.web.services import Services


def register(app: Flask, services: Services) -> None:
    """Add the pages, their templates' helpers and the static files' addresses to `app`."""
