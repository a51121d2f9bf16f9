"""From a hospital's files to the sealed store."""
