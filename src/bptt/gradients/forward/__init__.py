"""The gradient carried forward in time: :class:`ForwardMode` and its three rules."""
