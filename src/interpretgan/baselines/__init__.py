"""Other scores of layers, in print or for control, behind one interface: what a diagnosis is compared with."""
