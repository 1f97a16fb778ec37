"""Show what was measured: live, as a table, as a page."""
