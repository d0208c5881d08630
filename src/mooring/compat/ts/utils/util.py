from mooring.backends.handler.compiling import PT2Backend, check_valid_pt2_backend
from mooring.backends.handler.faults import PredictionException
from mooring.backends.handler.labels import load_label_mapping, map_class_to_label
from mooring.backends.handler.legacy import deprecated, get_yaml_config
from mooring.backends.handler.module_classes import list_classes_from_module
from mooring.backends.handler.text import CLEANUP_REGEX
