"""How one kind of model is loaded and called. AMD's "workers" are our backends."""
