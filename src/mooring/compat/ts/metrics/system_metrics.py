from mooring.backends.handler.system_metrics import (
    collect_all,
    collect_gpu_metrics,
    cpu_utilization,
    dimension,
    disk_available,
    disk_used,
    disk_utilization,
    memory_available,
    memory_used,
    memory_utilization,
    system_metrics,
)
