"""The importing room: a hospital's files, checked and turned into rows of numbers. It holds no key and no network."""
