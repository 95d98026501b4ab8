"""Each hash algorithm is the one of that name."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.hashing import ALGORITHMS, check_algorithm, hash_strings

# The digests of `text(length)` by blake3 1.0.11 and xxhash 4.1.0, packages that share no code with polars-hash. The
# lengths are those around which the algorithms change their ways.
VECTORS = {
    "blake3": {
        0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        1: "c8d11b9f7237e4034adbcd2005735f9bc4c597c75ad89f4492bec8f77d15f7eb",
        64: "39b1b7c962b47e17dd48e24d8853fa1d888a2fe03a1cee0d6e311e3cfe80f2b3",
        65: "1a0fbf83b16b9d104dfb60d5d42a2caa72f016a4c3ae34ae996f43dbfb4f60f5",
        1024: "496f43252f820994e4274fdf0562ee732f7ae2603bebc731d103ca5c6b9252b0",
        1025: "66ee52bb5f1d432b753befbfdffe8995d824608657cc1e1811e2c6256e1f1249",
        2049: "bf56810354456b416b0c54f2c01ff53d222dfd7ca5a959b63d1e3c63106b5806",
    },
    "xxh3_128": {
        0: "99aa06d3014798d86001c324468d497f",
        1: "b09a451b76367e3d5fbb498e55810a1a",
        3: "cc98b2fc8a5744ad9cc1fec95ebf51c9",
        8: "fde0edf197ff32694c08386cd0955e97",
        16: "013a41b3c3066f58256f96f5e0e5d182",
        17: "1492c8e04cb065496d4551583671dbd3",
        128: "ca54aa99522cd4162e0966476f3731a2",
        129: "58b78efae921380626a543d1327d36cd",
        240: "2c636b8cc1ac5f77cd7f5bb635faeb1a",
        241: "c65f223c1b1477ecea52ce7c1c7567c7",
        1025: "daf0db5dfe094ac6395fee1f15fcb0fb",
    },
}
OF_UNICODE = {
    "blake3": "57f58c102dcf28d98d80042a9bc83345be4e6f43d8ecd1a24e23763b84fdbd28",
    "xxh3_128": "b73924aa75d2f2bfc957e99bad263cc0",
}


def text(length):
    return "".join(chr(33 + 7 * position % 94) for position in range(length))


@pytest.mark.parametrize("algorithm", ["sha256", "sha3_256"])
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_digests_are_those_of_hashlib(algorithm, texts):
    expected = [hashlib.new(algorithm, each.encode()).hexdigest() for each in texts]
    assert hash_strings(texts, algorithm=algorithm) == expected


@pytest.mark.parametrize("algorithm", list(VECTORS))
def test_digests_are_those_of_other_implementations(algorithm):
    digests = hash_strings([text(length) for length in VECTORS[algorithm]], algorithm=algorithm)
    assert digests == list(VECTORS[algorithm].values())
    assert hash_strings(["é|ß|日本|🎈"], algorithm=algorithm) == [OF_UNICODE[algorithm]]


def test_every_algorithm_is_tested():
    assert {"sha256", "sha3_256", *VECTORS} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ["md5", "SHA256", "", None])
def test_an_algorithm_that_is_not_offered_is_refused(name):
    with pytest.raises(ValueError, match=r"one of 'sha256', 'sha3_256', 'blake3', 'xxh3_128', got"):
        check_algorithm(name)
