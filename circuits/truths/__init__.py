"""Tasks whose circuit is known, and how it is certified."""
