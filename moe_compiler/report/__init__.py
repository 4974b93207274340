"""report.html: what a compile decided and why, on one page that needs no network."""
