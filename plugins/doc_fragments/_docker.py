# Copyright (c) 2026, nodeforge contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is **PRIVATE** to the collection. It can change at any time.

from __future__ import annotations


class ModuleDocFragment:
    # The options of every module that talks to a container engine; names and fallbacks are community.docker's.
    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - The URL or Unix socket of the container engine's API, such as V(unix:///var/run/docker.sock) or V(tcp://192.0.2.23:2376).
      - If not set, the environment variable E(DOCKER_HOST) is used.
    type: str
    default: unix:///var/run/docker.sock
  api_version:
    description:
      - The version of the engine's API to speak. V(auto) takes the newest that both sides know.
      - If not set, the environment variable E(DOCKER_API_VERSION) is used.
    type: str
    default: auto
    aliases: [docker_api_version]
  timeout:
    description:
      - How many seconds one answer of the engine may take. Committing an image of several gigabytes is one answer.
      - If not set, the environment variable E(DOCKER_TIMEOUT) is used.
    type: int
    default: 600
  ca_path:
    description:
      - The file with the certificate authority that signed the engine's certificate.
      - If not set and E(DOCKER_CERT_PATH) is, C(ca.pem) from that directory is used.
    type: path
    aliases: [ca_cert, tls_ca_cert, cacert_path]
  client_cert:
    description:
      - The file with the client's certificate.
      - If not set and E(DOCKER_CERT_PATH) is, C(cert.pem) from that directory is used.
    type: path
    aliases: [tls_client_cert, cert_path]
  client_key:
    description:
      - The file with the client's key.
      - If not set and E(DOCKER_CERT_PATH) is, C(key.pem) from that directory is used.
    type: path
    aliases: [tls_client_key, key_path]
  tls:
    description:
      - Use TLS without verifying the engine's certificate. If not set, the environment variable E(DOCKER_TLS) is used.
    type: bool
    default: false
  validate_certs:
    description:
      - Use TLS and verify the engine's certificate. If not set, the environment variable E(DOCKER_TLS_VERIFY) is used.
    type: bool
    default: false
    aliases: [tls_verify]
requirements:
  - "Docker SDK for Python (C(docker)) 5.0.0 or newer"
  - "Docker 20.10 or newer (API 1.41)"
"""
