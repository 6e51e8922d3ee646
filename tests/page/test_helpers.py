"""Work in a process of its own."""

import asyncio
import time

import pytest

pytest.importorskip("starlette")

from nst_manual import NSTError
from nst_manual.page.helpers import Helper


def test_who_waits_behind_a_request_that_is_given_up_gets_a_sentence():
    async def ask():
        helper = Helper(60, "the work")
        asked = [asyncio.create_task(helper(time.sleep, 0.1)) for _ in range(4)]
        await asyncio.sleep(0)
        helper.pool.shutdown(wait=False, cancel_futures=True)  # as `close` begins
        return await asyncio.gather(*asked, return_exceptions=True)

    behind = asyncio.run(ask())[-1]
    assert isinstance(behind, NSTError)
    assert "its process ended unexpectedly" in str(behind)


def test_work_that_takes_too_long_is_given_up():
    helper = Helper(0.1, "the work")
    with pytest.raises(NSTError, match=r"the work was given up after 0\.1 s"):
        asyncio.run(helper(time.sleep, 60))
