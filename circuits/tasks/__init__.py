"""Which behaviour is asked about: clean images, partners, classes and the metric."""
