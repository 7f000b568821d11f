"""Where users' classes, functions and values become definitions and rows, and back."""
