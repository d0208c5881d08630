from mooring.backends.handler.object_detector import ObjectDetector
