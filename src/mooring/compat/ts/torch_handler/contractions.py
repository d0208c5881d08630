from mooring.backends.handler.contractions import CONTRACTION_MAP
