"""What stands in the way: from the limits of a run, or from the rungs of a ladder, to one verdict and the first knob to turn. Pure arithmetic."""
