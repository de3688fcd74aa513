"""The built-in methods, one file each. They come in through entry points like anybody's."""
