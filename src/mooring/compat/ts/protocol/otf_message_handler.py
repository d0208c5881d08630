from mooring.backends.handler.streaming import send_intermediate_predict_response
from mooring.backends.handler.worker_wire import (
    create_load_model_response,
    create_predict_response,
    retrieve_msg,
)
