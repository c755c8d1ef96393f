"""What is looked for before the first batch: networks, criteria and data that would fail later, or train nothing."""
