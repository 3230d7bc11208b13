"""What is remembered for the process: the results that were used last."""

import pytest

from ertacache.runtime.memo import Memo


def test_the_results_used_last_are_kept_and_no_more():
    memo, made = Memo(2), []

    def get(key):
        return memo.get(key, lambda: (made.append(key), f"of {key}")[1])

    assert [get("a"), get("b"), get("a"), get("c"), get("a")] == ["of a", "of b", "of a", "of c", "of a"]
    assert made == ["a", "b", "c"]
    assert len(memo) == 2
    assert get("b") == "of b"
    assert made == ["a", "b", "c", "b"], "b was used before a and c"


def test_what_could_not_be_made_is_tried_again():
    memo = Memo(2)
    with pytest.raises(ZeroDivisionError):
        memo.get("a", lambda: 1 / 0)
    assert len(memo) == 0
    assert memo.get("a", lambda: "made") == "made"
