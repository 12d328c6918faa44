"""Whole experiments, each one command: a table of independent runs, their effects, and verdicts by rules set before."""
