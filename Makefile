# Copyright (c) 2026, nodeforge contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# make node [SOURCE=checkout|_output|archive|URL|v1.34.4|ci/latest] [VERSION=v1.37.2] [TAG=main] [PLATFORM=linux/arm64]   build a node image
# make variant [BASE=kindest/node:main] [SOURCE=...] [COMPONENTS='kubelet kube-proxy'] [TAG=variant]   replace parts of one
# make cluster [TAG=main] [NAME=kind]                                      create a cluster of it
# make swap COMPONENT=kubelet [STATE=original] [NAME=kind] [SOURCE=]       compile a component and run it there
# make debug COMPONENT=kubelet [STATE=absent] [NAME=kind] [SOURCE=]        compile a component and run it there under delve
# make test                                                               run every test
# OPTIONS is handed to ansible-playbook, PYTEST_ARGS to pytest, PYTHON names another Python.

SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

# Everything is relative to the checkout, so that its own path may hold blanks.
here := $(CURDIR)
bin := .cache/venv/bin
export PATH := $(here)/$(bin):$(PATH)
export ANSIBLE_CONFIG := $(here)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(here)/.collections
export ANSIBLE_HOME := $(here)/.cache/ansible
# A proxy's or pip's own prompts would hang a run without a terminal.
export PIP_NO_INPUT := 1

.NOTPARALLEL:
.PHONY: help node variant preflight cluster swap debug host host-tests test test-unit test-sanity test-integration test-e2e versions inner-loop remote multiarch molecule lint bench docs changelog clean distclean venv venv-test

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

venv:
	@tools/venv.sh .cache/venv requirements.txt
venv-test:
	@tools/venv.sh .cache/venv requirements-test.txt

node: venv ## build a node image [SOURCE= VERSION= TAG= PLATFORM= OPTIONS=]
	@tools/play.sh build-node.yml $(source) \
	  $(if $(VERSION),-e "{embedded_tree_version: '$(VERSION)'}") $(if $(TAG),-e "{node_image_tag: '$(TAG)'}") \
	  $(if $(PLATFORM),-e "{kube_platform: '$(PLATFORM)'}") $(OPTIONS)

variant: venv ## replace parts of a node image [BASE= SOURCE= COMPONENTS= TAG= OPTIONS=]
	@tools/play.sh nodeforge.kind.build_variant $(source) $(if $(BASE),-e "{kube_base: '$(BASE)'}") \
	  $(if $(COMPONENTS),-e "{kube_components: [$(foreach name,$(COMPONENTS),$(name)$(comma))]}") $(if $(TAG),-e "{node_image_tag: '$(TAG)'}") $(OPTIONS)

preflight: venv ## tell what a build would meet, before minutes are spent [SOURCE= OPTIONS=]
	@tools/play.sh nodeforge.kind.preflight $(source) $(OPTIONS)

cluster: venv ## create a kind cluster of the node image [TAG= NAME= OPTIONS=]
	@tools/play.sh nodeforge.kind.create_cluster $(if $(TAG),-e "{node_image_tag: '$(TAG)'}") $(if $(NAME),-e "{kind_cluster_name: '$(NAME)'}") $(OPTIONS)

swap: venv ## compile a component and run it in the cluster COMPONENT= [STATE=original NAME= SOURCE= VERSION= OPTIONS=]
	@tools/play.sh nodeforge.kind.swap_component -e "{component: '$(COMPONENT)'}" $(if $(STATE),-e "{state: '$(STATE)'}") \
	  $(if $(NAME),-e "{cluster: '$(NAME)'}") $(if $(VERSION),-e "{embedded_tree_version: '$(VERSION)'}") \
	  $(source) $(OPTIONS)

debug: venv ## compile a component and run it in the cluster under delve COMPONENT= [STATE=absent NAME= SOURCE= VERSION= OPTIONS=]
	@tools/play.sh nodeforge.kind.debug_component -e "{component: '$(COMPONENT)'}" $(if $(STATE),-e "{state: '$(STATE)'}") \
	  $(if $(NAME),-e "{cluster: '$(NAME)'}") $(if $(VERSION),-e "{embedded_tree_version: '$(VERSION)'}") \
	  $(source) $(OPTIONS)

host: venv ## prepare this machine only: engine, tools, kind
	@tools/play.sh nodeforge.kind.build_host $(OPTIONS)

# trees of older releases reach their build container with rsync
host-tests: host
	@tools/play.sh nodeforge.kind.build_host -e "{build_host_tools: {rsync: rsync}}"

test: venv-test host-tests ## run every test, the quick ones first
	$(pytest) tests/unit tests/test_quality.py tests/integration tests/test_molecule.py tests/e2e $(PYTEST_ARGS)

test-unit: venv-test ## the pure decisions
	$(pytest) tests/unit $(PYTEST_ARGS)

lint: venv-test ## ansible-lint, yamllint, ruff, reuse, changelog, docs
	$(pytest) tests/test_quality.py -k 'not sanity' $(PYTEST_ARGS)

test-sanity: venv-test ## ansible-test sanity, without ignores
	$(pytest) tests/test_quality.py -k sanity $(PYTEST_ARGS)

test-integration: venv-test host-tests ## modules and roles against the real engine, containerd, registry and compiler
	$(pytest) tests/integration $(PYTEST_ARGS)

molecule: venv-test host ## the molecule scenario
	$(pytest) tests/test_molecule.py $(PYTEST_ARGS)

test-e2e: venv-test host ## the node image boots and traffic flows
	$(pytest) tests/e2e $(PYTEST_ARGS)

versions: venv-test host ## other versions of Kubernetes and the documented patch, compiled and booted [VERSIONS="v1.34.4 …"]; takes an hour
	$(pytest) tests/versions -s $(PYTEST_ARGS)

inner-loop: venv-test host ## clusters, and components swapped and debugged in them, also under faults; takes a quarter of an hour
	$(pytest) tests/inner_loop $(PYTEST_ARGS)

multiarch: venv-test host ## node images for arm64 on amd64 or the other way round, and both under one name; compiles Kubernetes once more
	$(pytest) tests/multiarch -s $(PYTEST_ARGS)

remote: venv-test host ## trees, images, clusters and long builds on hosts of our own, which are reached by SSH; takes a quarter of an hour
	@tools/play.sh nodeforge.kind.build_host -e "{build_host_tools: {rsync: rsync, ssh: openssh-client, tc: iproute2}}"
	$(pytest) tests/remote $(PYTEST_ARGS)

bench: venv-test host ## measure, with kind on the same inputs beside
	$(bin)/python tests/bench/bench.py $(BENCH_ARGS)

docs: venv-test ## the documentation of modules and roles, as text, into .cache/docs
	@mkdir -p .cache/docs
	@for module in plugins/modules/*.py; do name=$$(basename "$$module" .py); \
	  ansible-doc nodeforge.kind.$$name >.cache/docs/$$name.txt || exit 1; done
	@for role in roles/*/; do name=$$(basename "$$role"); \
	  ansible-doc -t role nodeforge.kind.$$name >.cache/docs/role_$$name.txt || exit 1; done
	@ls .cache/docs/*.txt

changelog: venv-test ## turn the fragments into the release that galaxy.yml names, or update it
	antsibull-changelog release --update-existing --reload-plugins

clean: venv ## remove build containers that a killed run left behind
	@tools/play.sh nodeforge.kind.clean $(OPTIONS)

distclean: ## remove what this checkout made in itself
	rm -rf .cache .ansible tests/output

comma := ,
# Only decides whether it is a path, which is made absolute here; what a source is, and whether its name is right, plugins/module_utils/_artifacts.py
# says (parse_source).
source = $(if $(SOURCE),-e "{kube_source: '$$(case '$(SOURCE)' in \
  (embedded|*://*|v[0-9]*.[0-9]*.[0-9]*|release[:/]*|ci[:/]*|tree:*|artifacts:*) printf %s '$(SOURCE)' ;; \
  (*) realpath -ms -- '$(patsubst ~/%,$(HOME)/%,$(SOURCE))' ;; esac)'}")

# Interrupts reach pytest itself, whose fixtures clean up; its closing line is the last thing printed.
pytest = @exec $(bin)/python -m pytest
