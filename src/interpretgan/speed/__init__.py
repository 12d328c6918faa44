"""What explanations of all layers cost, measured beside what others would take."""
