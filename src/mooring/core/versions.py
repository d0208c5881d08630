"""Which versions of a model of a repository are served."""

from collections.abc import Collection, Sequence

import msgspec


class VersionPolicy(msgspec.Struct, frozen=True):
    """The ``latest`` so many, the ``specific`` ones, or where neither is said every one."""

    latest: int = 0
    specific: tuple[int, ...] = ()

    def choose(self, versions: Sequence[str], also: Collection[str] = ()) -> list[str]:
        """Those of ``versions``, which come lowest first, that are to be served; of ``also`` those that are there.

        >>> VersionPolicy(latest=1).choose(["1", "2", "10"])
        ['10']
        """
        if self.latest:
            chosen = set(versions[-self.latest :])
        elif self.specific:
            chosen = {str(each) for each in self.specific}
        else:
            chosen = set(versions)
        return [each for each in versions if each in chosen or each in also]

    def __str__(self) -> str:
        if self.latest:
            return f"latest {self.latest}"
        return f"specific {', '.join(map(str, self.specific))}" if self.specific else "all"
