"""Where the canonical parts are in other people's modules."""
