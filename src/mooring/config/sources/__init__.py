"""Where the settings of a start come from: files, the environment and flags, ours and TorchServe's."""
