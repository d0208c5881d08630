"""Bytes received and sent, handed from process to process."""

from mooring.observability.traffic import Traffic


def test_traffic_is_taken_once():
    traffic, total = Traffic(), Traffic()
    traffic.received, traffic.sent = 3, 4
    total.add(traffic.take())
    total.add(traffic.take())
    assert (total.received, total.sent, traffic.received) == (3, 4, 0)
