from mooring.backends.handler.vision_handler import VisionHandler
