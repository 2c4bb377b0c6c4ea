"""ViTs whose circuit is known: three with hand-set weights, and digit-pairs with trained ones."""
