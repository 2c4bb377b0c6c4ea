"""Pictures of circuits; nothing here knows a model."""
