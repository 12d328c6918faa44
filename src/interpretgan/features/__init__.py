"""Which features a perturbation modified: units, the proof by patching, what excites them, and the path between."""
