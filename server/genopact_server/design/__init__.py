"""Public files of recipes: what a study measures, made of public data alone and named by its digest."""
