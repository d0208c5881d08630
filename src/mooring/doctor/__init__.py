"""What would become of an installation of TorchServe, MLServer, Triton or AMD's server here: read, never run."""
