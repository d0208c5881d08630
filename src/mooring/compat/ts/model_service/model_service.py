from mooring.backends.handler.model_service import ModelService, SingleNodeService
