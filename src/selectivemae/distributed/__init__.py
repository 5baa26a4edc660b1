"""Floor 1: processes that train together: launch, groups, gather, time-outs."""
