from mooring.backends.handler.model_loader import ModelLoader, ModelLoaderFactory, TsModelLoader
