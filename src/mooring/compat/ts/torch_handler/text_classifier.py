from mooring.backends.handler.text_classifier import TextClassifier
