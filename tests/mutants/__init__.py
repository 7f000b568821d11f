"""The seeds' checklists, line by line, and the product with a feature taken out: its tests must notice, and only they."""
