"""Networks with a known fragile layer, made by seed and verified by intervention, and what a diagnosis says of them."""
