"""The torch side: the only place that imports torch."""
