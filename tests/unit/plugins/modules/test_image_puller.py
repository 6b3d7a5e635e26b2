# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot be brought about with a real containerd."""

from __future__ import annotations

import collections.abc as c
import threading
import types
import typing as t

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError
from ansible_collections.nodeforge.kind.plugins.module_utils._image_archive import Content, Missing
from ansible_collections.nodeforge.kind.plugins.modules.ctr_image_pull import Image, ImagePuller


class Containerd:
    """Takes what comes, and says what the engine says where that breaks off."""

    def load(self, chunks: c.Iterable[bytes], *args: t.Any, **options: t.Any) -> t.Any:
        try:
            list(chunks)
        except OSError as e:
            raise EngineError(f"its input broke off ({e})") from e
        raise EngineError("the engine has gone")


def broken(when: str) -> t.Iterator[bytes]:
    yield b"header"
    if when == "while it is read":
        raise FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize("when", ["before it is read", "while it is read", "the engine's own fault"])
def test_a_cache_that_somebody_clears_meanwhile_is_an_empty_one(when: str) -> None:
    def stream(*args: t.Any) -> tuple[t.Iterator[bytes], int]:
        if when == "before it is read":
            raise Missing("sha256:0")
        return broken(when), 6

    content = Content("sha256:0", "sha256:1", {})
    cache = types.SimpleNamespace(find=lambda *args: content, damage=lambda *args: None, stream=stream, directory="/c")
    puller: t.Any = object.__new__(ImagePuller)
    vars(puller).update(cache=cache, platform="linux/amd64", pin=True, timeout=1, _stopping=threading.Event(), actions=[])
    if when == "the engine's own fault":
        with pytest.raises(EngineError, match="the engine has gone"):
            puller._from_cache(Containerd(), Image("r.io/x:1"))
    else:
        assert puller._from_cache(Containerd(), Image("r.io/x:1")) is False
