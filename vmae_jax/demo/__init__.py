"""A page that shows what a model makes of a clip."""
