"""The continuous W1 benchmark: pairs with known truth, critics, and the published numbers."""
