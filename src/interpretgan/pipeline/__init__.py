"""The whole job in one run folder."""
