"""Show measurements: live, as tables, as a page."""
