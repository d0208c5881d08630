"""``mooring`` with connections that are dealt out at random all the time, whatever the load; counts those that went."""

import random

from mooring.cli import main
from mooring.frontends import balancer
from mooring.frontends.balancing import BalancePolicy, Migration
from mooring.web.migration import SocketChannel

moved = 0


def anywhere(self, _now, loads, _idle):
    self.open = [True, *(there and random.random() < 0.5 for there in self.present[1:])]
    takers = [number for number, is_open in enumerate(self.open) if is_open]
    moves = [
        Migration(giver, random.choice(takers), random.choice([0.4, 1.0])) for giver in range(len(loads))
    ]
    return [move for move in moves if move.giver != move.taker and self.present[move.giver]]


def counted(self, mark, descriptor):
    global moved
    went = send(self, mark, descriptor)
    moved += went
    if moved % 50 == 0:
        print("connections moved:", moved, flush=True)
    return went


send, SocketChannel.send = SocketChannel.send, counted
BalancePolicy.next = anywhere
balancer._EASY = -1.0
balancer.messages.LOAD_EVERY = 0.02

if __name__ == "__main__":
    main()
