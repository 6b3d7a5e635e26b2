# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document that docker_image_index publishes."""

from __future__ import annotations

import json

import pytest
from ansible_collections.nodeforge.kind.plugins.module_utils._docker import EngineError
from ansible_collections.nodeforge.kind.plugins.module_utils._registry import Credentials, Logins, Repository
from ansible_collections.nodeforge.kind.plugins.modules.docker_image_index import INDEX, index_of

KIND = "application/vnd.docker.distribution.manifest.v2+json"
AMD64, ARM64 = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def test_the_order_in_which_platforms_are_given_is_of_no_account() -> None:
    one = index_of({"linux/arm64": (KIND, ARM64, 2), "linux/amd64": (KIND, AMD64, 1)})
    assert one == index_of({"linux/amd64": (KIND, AMD64, 1), "linux/arm64": (KIND, ARM64, 2)})
    assert json.loads(one) == {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {"mediaType": KIND, "digest": AMD64, "size": 1, "platform": {"architecture": "amd64", "os": "linux"}},
            {"mediaType": KIND, "digest": ARM64, "size": 2, "platform": {"architecture": "arm64", "os": "linux"}},
        ],
    }


def test_a_variant_is_told_where_it_is_no_default() -> None:
    told = [entry["platform"] for entry in json.loads(index_of({"linux/arm/v7": (KIND, AMD64, 1), "linux/arm64/v8": (KIND, ARM64, 1)}))["manifests"]]
    assert told == [{"architecture": "arm", "os": "linux", "variant": "v7"}, {"architecture": "arm64", "os": "linux"}]


def test_no_password_goes_over_a_network_without_tls() -> None:
    logins = Logins({"registry.example.com": Credentials("builder", "secret")}, "", lambda _command, _text: (1, "", ""), print)
    with pytest.raises(EngineError, match='The password of "builder" would go to registry.example.com without TLS'):
        Repository("registry.example.com", "team/node", logins, insecure=True)
