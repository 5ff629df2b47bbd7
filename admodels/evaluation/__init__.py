"""How good a detector is: metrics, measuring, painted defects, overlay sheets."""
