"""``mooring`` whose processes count as full when they do anything at all, and the machine as idle, whatever it does."""

from mooring.cli import main
from mooring.engine import dealer, dealing

dealing.FULL = 0.02
dealing.ROOM = -1.0
dealer._EASY = 0.0

if __name__ == "__main__":
    main()
