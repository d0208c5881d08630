"""``mooring`` whose first process takes no connections to shared addresses once the frontend processes take them."""

from mooring.cli import main
from mooring.frontends.balancer import ConnectionBalancer
from mooring.frontends.supervisor import FrontendSupervisor

shared = []


def remember(self, frontends, listeners, **options):
    shared.extend(listeners)
    initialize(self, frontends, listeners, **options)


async def leave_connections_to_frontends(self):
    await listening(self)
    for each in shared:
        each.set_accepting(False)
        await each.adjusted()


initialize, ConnectionBalancer.__init__ = ConnectionBalancer.__init__, remember
listening, FrontendSupervisor.listening = FrontendSupervisor.listening, leave_connections_to_frontends

if __name__ == "__main__":
    main()
