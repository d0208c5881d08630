"""``mooring`` whose processes count as full when they do anything at all, and the machine as idle, whatever it does."""

from mooring.cli import main
from mooring.frontends import balancer, balancing

balancing.FULL = 0.02
balancing.ROOM = -1.0
balancing.GAP = 0.01
balancer._EASY = 0.0

if __name__ == "__main__":
    main()
