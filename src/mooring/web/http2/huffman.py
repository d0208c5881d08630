"""The Huffman code of HPACK (RFC 7541, 5.2 and appendix B), read only: what is written here is never compressed.

The code is canonical: its symbols, by length and then by value, have consecutive codes. So the lengths define it.
"""

import functools

# Symbols by the length of their codes in bits. 256 is the end of a string, which no string may have in it.
_LENGTHS = {
    5: "48-50 97 99 101 105 111 115-116",
    6: "32 37 45-47 51-57 61 65 95 98 100 102-104 108-110 112 114 117",
    7: "58 66-87 89 106-107 113 118-122",
    8: "38 42 44 59 88 90",
    10: "33-34 40-41 63",
    11: "39 43 124",
    12: "35 62",
    13: "0 36 64 91 93 126",
    14: "94 125",
    15: "60 96 123",
    19: "92 195 208",
    20: "128 130-131 162 184 194 224 226",
    21: "153 161 167 172 176-177 179 209 216-217 227 229-230",
    22: "129 132-134 136 146 154 156 160 163-164 169-170 173 178 181 185-187 189-190 196 198 228 232-233",
    23: "1 135 137-141 143 147 149-152 155 157-158 165-166 168 174-175 180 182-183 188 191 197 231 239",
    24: "9 142 144-145 148 159 171 206 215 225 236-237",
    25: "199 207 234-235",
    26: "192-193 200-202 205 210 213 218-219 238 240 242-243 255",
    27: "203-204 211-212 214 221-223 241 244-248 250-254",
    28: "2-8 11-12 14-21 23-31 127 220 249",
    30: "10 13 22 256",
}
_END = 256
_START = 1


def huffman_codes() -> dict[int, tuple[int, int]]:
    """Symbol -> its code, and how many bits of that count."""
    codes: dict[int, tuple[int, int]] = {}
    code = length = 0
    for bits, symbols in _LENGTHS.items():
        code <<= bits - length
        length = bits
        for span in symbols.split():
            first, _, last = span.partition("-")
            for symbol in range(int(first), int(last or first) + 1):
                codes[symbol] = code, bits
                code += 1
    return codes


class _StateMachine(dict[int, tuple[bytes, int]]):
    """State and byte -> the text that the byte adds, and the next state; entries are made as needed.

    A state is the bits since the last whole symbol, with a one before them. There are 256 of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._symbols = {1 << bits | code: symbol for symbol, (code, bits) in huffman_codes().items()}

    def __missing__(self, key: int) -> tuple[bytes, int]:
        state, byte = key >> 8, key & 0xFF
        text = bytearray()
        for shift in range(7, -1, -1):
            state = state << 1 | byte >> shift & 1
            symbol = self._symbols.get(state)
            if symbol == _END:
                raise ValueError("a string has the symbol for its end in it")
            if symbol is not None:
                text.append(symbol)
                state = _START
        entry = self[key] = bytes(text), state
        return entry


@functools.cache
def _state_machine() -> _StateMachine:
    return _StateMachine()


def decode_huffman(compressed: bytes) -> bytes:
    """Decode a compressed string. Raises ``ValueError`` where it is none, or is not padded as it should be."""
    machine, state = _state_machine(), _START
    texts = []
    for byte in compressed:
        text, state = machine[state << 8 | byte]
        texts.append(text)
    # What is left are at most seven bits, all ones.
    if state > 0xFF or state & (state + 1):
        raise ValueError("a string is not padded with ones")
    return b"".join(texts)
