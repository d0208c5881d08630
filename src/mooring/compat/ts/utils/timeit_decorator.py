from mooring.backends.handler.timer import timeit
