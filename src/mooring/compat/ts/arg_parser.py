from mooring.backends.handler.absent import ArgParser
