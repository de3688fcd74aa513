"""What everything else may use: telling the user, specs, entry points, devices, names that moved."""
