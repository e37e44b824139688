"""A compressed model as one HTML page: sizes, histograms, patterns of zeros, code lengths."""

from html import escape

from .model import CompressedModel


def make_page(packed: CompressedModel, name: str = "") -> str:
    """Return the page (a stub for now: the signature is settled)."""
    return f"<!doctype html><title>{escape(name)}</title>{len(packed)} tensors"
