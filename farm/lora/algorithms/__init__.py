"""One module per adapter algorithm: suffixes, shapes, formula."""
