from mooring.backends.handler.image_segmenter import ImageSegmenter
