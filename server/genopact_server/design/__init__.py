"""Public files of recipes: computed from published data once, named by their digest."""
