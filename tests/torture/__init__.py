"""What may go wrong around a run, done to it on purpose. ``./run torture`` runs the long forms."""
