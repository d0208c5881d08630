"""The soak in short: every kind of request, rests and all. Memory is judged by the long form: here it still warms up."""

import uvloop
from soak import RESTS, Held, Soak, Soaked, growth, verdict


def test_thousands_of_requests_of_every_kind_are_answered_right(tmp_path):
    server = Soaked(tmp_path)
    try:
        server.started()
        running = []

        async def run():
            running.append(Soak(server, 6000, seed=1, rest=0.1))
            return await running[0].run()

        seen = uvloop.run(run())
        (soak,) = running
        assert soak.wrong == []
        assert soak.total >= 6000
        kinds = {
            "torchserve_row",
            "v2_json",
            "v1_instances",
            "refused",
            "grpc tensors",
            "broken",
            "register",
            "unload",
        }
        assert soak.asked.keys() >= kinds
        assert len(seen) == RESTS
        assert seen[-1].processes == seen[0].processes
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


def held(number, pss=100, descriptors=10):
    return Held(number, 0.0, pss, 0, descriptors, 1, 1)


def test_what_grows_is_told_and_what_only_warms_up_is_not():
    soak = Soak(None, 0, 0)
    warming = [held(number, min(100, 50 + 10 * number)) for number in range(RESTS)]
    assert verdict(soak, warming) == []
    leaking = [held(number, 100 + number) for number in range(RESTS)]
    assert 0.05 < growth(leaking) < 0.1
    assert verdict(soak, leaking) == ["memory grew by 6.3% in the second half"]
    assert (
        "descriptors became more"
        in verdict(soak, [held(number, descriptors=number) for number in range(RESTS)])[0]
    )


def test_a_wrong_answer_is_told():
    soak = Soak(None, 0, 0)
    soak._count("kind", right=False, got="that")
    assert verdict(soak, []) == ["kind: 'that'"]
