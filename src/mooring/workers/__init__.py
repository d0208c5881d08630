"""Where a model runs: processes, the channel to them and the memory shared with them."""
