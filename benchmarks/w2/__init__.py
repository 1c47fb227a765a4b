"""The continuous W2 benchmark: pairs with known truth."""
