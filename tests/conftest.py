"""What every test may rely on: no setting of the machine leaks in, and examples of hypothesis may take their time."""

import os

from hypothesis import settings

# Two cores shared with others: how long an example takes says nothing about the code.
settings.register_profile("mooring", deadline=None)
settings.load_profile("mooring")

for _name in [name for name in os.environ if name.startswith(("MOORING_", "TS_"))]:
    del os.environ[_name]
