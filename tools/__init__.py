"""Tools of the project's builders: documentation, vendoring, training of the demo model."""
