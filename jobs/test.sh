#!/usr/bin/env bash
# Lint and test everything: ruff (rules and format), mypy, shellcheck, pytest.
#
# All of them run, and the exit status is non-zero if one fails. Where no environment exists yet,
# jobs/setup.sh makes it first. Arguments are passed to pytest, whose files are divided among
# TEST_PROCESSES processes (as many as there are cores).
#
#   bash jobs/test.sh                       everything except the tests marked slow
#   bash jobs/test.sh -m slow               the slow tests
#   bash jobs/test.sh tests/jobs/test_setup.py -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case "${1:-}" in
  -h | --help) usage "$0"; exit 0 ;;
esac

cd "${REPOSITORY}"
bash jobs/setup.sh --dev
use_environment dev export

failed=0
echo "== ruff"
python -m ruff check . || failed=1
python -m ruff format --check . || failed=1
echo "== mypy"
python -m mypy || failed=1
echo "== shellcheck"
find . .ci/run \( -name venv -o -name data -o -name results -o -name '.?*' \) -prune -o \
  \( -name '*.sh' -o -path .ci/run \) -type f -exec shellcheck -x {} + || failed=1
echo "== pytest"
processes="${TEST_PROCESSES:-$(getconf _NPROCESSORS_ONLN)}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"   # so that their threads share the cores
python -m pytest -n "${processes}" --dist loadfile --no-loadscope-reorder "$@" || failed=1
exit "${failed}"
