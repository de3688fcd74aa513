"""The built-in plugins, one file each. They are registered through entry points, as third-party plugins are."""
