"""Detectors of hints. They come in through entry points like anybody's; nothing is imported here."""
