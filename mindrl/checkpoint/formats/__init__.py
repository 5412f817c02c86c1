"""Formats of weights at rest, read and written by their headers: which bytes of which file are which tensor."""
