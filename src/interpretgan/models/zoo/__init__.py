"""The trained classifiers that come with the package: their weights, and a card that says what each is."""
