"""Where raw daily bars come from: one module a source, all behind the `Source` protocol of `base`."""
