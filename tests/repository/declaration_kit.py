"""Configurations for tests of what reads them."""

from mooring.repository.repository_model import read_versions

AMD = """
# the form of AMD's server
name: "adder"
versions: ["1"]
platform: "python"
max_batch_size: 4
inputs [
  { name: "a" datatype: "FP32" shape: [28, 28, 1] }
]
outputs { name: "sum" datatype: FP32 shape: 10 shape: 2 }
parameters { key: "scale" value { double_param: 1.5 } }
parameters { key: "label" value { string_param: "x" } }
batching { max_delay_ms: 5 }
workers { min: 1 max: 2 }
"""


def read(model, text, name="config.toml", **more):
    (model / name).write_text(text)
    return read_versions(model, "adder", **more)


TRITON = """
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 2 } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 8 max_queue_delay_microseconds: 100 }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
}
"""
