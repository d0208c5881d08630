from mooring.backends.handler.process_memory import check_process_mem_usage
from mooring.backends.handler.system_metrics import print_system_metrics

if __name__ == "__main__":
    print_system_metrics()
