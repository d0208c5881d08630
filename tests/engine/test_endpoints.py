"""How worker endpoints are named: the table of the AMD server's own behavior, and what must hold for any history."""

from hypothesis import given
from hypothesis import strategies as st

from mooring.engine.endpoints import WorkerEndpoints

ECHO = {"model": "echo"}


class Server:
    """What loads and unloads in order come to."""

    def __init__(self):
        self.endpoints = WorkerEndpoints()

    def load(self, worker="cplusplus", fails=False, **parameters):
        found = self.endpoints.find_endpoint(worker, parameters)
        if found is not None:
            if parameters.get("share") is False:
                self.endpoints.add_instance(found)
            return found
        name = self.endpoints.next_name(worker)
        if fails:
            self.endpoints.note_load_failure(worker)
        else:
            self.endpoints.add_endpoint(worker, name, parameters)
        return name


def test_the_first_endpoint_is_called_like_its_worker_and_others_are_numbered():
    server = Server()
    assert server.load(**ECHO) == "cplusplus"
    assert server.load(**ECHO) == "cplusplus"
    assert server.load(**ECHO, share=True) == "cplusplus"
    assert server.load(**ECHO, worker_is_not_compared=1) == "cplusplus-0"
    assert server.load("fake") == "fake"


def test_the_type_of_a_parameter_matters_but_a_whole_float_is_an_integer():
    server = Server()
    server.load(**ECHO)
    assert server.load(**ECHO, max_buffer_num=100) == "cplusplus-0"
    assert server.load(**ECHO, max_buffer_num=100.0) == "cplusplus-0"
    assert server.load(**ECHO, max_buffer_num="100") == "cplusplus-1"
    assert server.load(model="echo_multi") == "cplusplus-2"
    assert server.load(**ECHO, neg=-1) == "cplusplus-3"
    assert server.load(**ECHO, flag=True) != server.load(**ECHO, flag=1)


def test_a_failed_load_has_used_its_number_up():
    server = Server()
    server.load(**ECHO)
    assert server.load(**ECHO, a=1) == "cplusplus-0"
    server.load(**ECHO, batch_size="2", fails=True)
    assert server.load(**ECHO, batch_size=2) == "cplusplus-2"


def test_instances_are_counted_and_loads_are_not():
    server = Server()
    server.load(**ECHO)
    server.load(**ECHO)
    server.load(**ECHO, share=False)
    assert server.endpoints.release_instance("cplusplus") == 1
    assert server.endpoints.release_instance("cplusplus") == 0
    assert server.endpoints.find_endpoint("cplusplus", ECHO) is None


def test_the_plain_name_comes_back_only_when_every_endpoint_of_the_worker_is_gone():
    server = Server()
    server.load(**ECHO)
    server.load(**ECHO, a=1)
    server.endpoints.release_instance("cplusplus")
    assert server.load(**ECHO) == "cplusplus-1"
    server.endpoints.release_instance("cplusplus-0")
    server.endpoints.release_instance("cplusplus-1")
    assert server.load(**ECHO) == "cplusplus"


@given(
    st.lists(st.tuples(st.sampled_from(["load", "alone", "fail", "drop"]), st.integers(0, 4)), max_size=60)
)
def test_no_two_living_endpoints_share_a_name_whatever_is_loaded_and_unloaded(steps):
    server, alive = Server(), {}
    for step, number in steps:
        if step == "drop":
            endpoint = alive.pop(number, None)
            if endpoint is not None:
                while server.endpoints.release_instance(endpoint):
                    pass
            continue
        extra = {"share": False} if step == "alone" else {}
        endpoint = server.load(fails=step == "fail" and number not in alive, number=number, **extra)
        if step == "fail" and number not in alive:
            continue
        assert alive.get(number, endpoint) == endpoint
        alive[number] = endpoint
        assert len(set(alive.values())) == len(alive)
