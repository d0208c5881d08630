"""Standard streams that nobody reads."""

import os

from mooring.cli.standard_streams import takes_text


def test_a_pipe_that_is_full_takes_no_text_until_somebody_reads():
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        assert takes_text(stream)
        os.set_blocking(write, False)
        try:
            while os.write(write, b"x" * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(write, True)
        assert not takes_text(stream)
        os.read(read, 1 << 16)
        assert takes_text(stream)
    os.close(read)
