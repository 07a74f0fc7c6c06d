# shellcheck shell=bash
# Sourced by the job scripts, from any directory:
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
#   use_environment
#
# After that plain `python` has what pyproject.toml asks for, and imports this checkout's package.

REPOSITORY="$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# usage SCRIPT: print its header, the comment lines below the first line.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# has_requirements PYTHON [dev] [export]: succeed if this Python has all of them (dev: test tools
# too, export: ONNX too), else print what it lacks.
has_requirements() {
  "$1" "${REPOSITORY}/jobs/missing_requirements.py" "${@:2}" 2> /dev/null
}

# use_environment [dev] [export]: the active environment (venv, conda, whatever `python` is) if it
# has everything, else venv/. A script that another one called does not look again.
use_environment() {
  [[ "${UNLABELEDASD_PYTHON:-}" != "${REPOSITORY} $* $(command -v python)" ]] || return 0
  if ! has_requirements python "$@" > /dev/null; then
    if ! has_requirements "${REPOSITORY}/venv/bin/python" "$@" > /dev/null; then
      echo "no Python environment with all requirements yet: bash jobs/setup.sh${1:+ --$1}" >&2
      exit 1
    fi
    export VIRTUAL_ENV="${REPOSITORY}/venv" PATH="${REPOSITORY}/venv/bin:${PATH}"
  fi
  # This checkout's package, even where it is not installed, or where that of another checkout is.
  export PYTHONPATH="${REPOSITORY}/src${PYTHONPATH:+:${PYTHONPATH}}"
  UNLABELEDASD_PYTHON="${REPOSITORY} $* $(command -v python)"
  export UNLABELEDASD_PYTHON
}

# read_grid: DATASETS and SEEDS of the environment, or those of the paper, as arrays.
read_grid() {
  read -ra DATASETS <<< "${DATASETS:-dcase2023 dcase2024}"
  read -ra SEEDS <<< "${SEEDS:-1 2 3 4 5}"
}

# read_places: RESULTS_DIR and LABEL_DIR of the environment, or their defaults, as absolute paths.
# Relative ones start where the caller is.
read_places() {
  RESULTS_DIR="${RESULTS_DIR:-${REPOSITORY}/results/exp}"
  LABEL_DIR="${LABEL_DIR:-${REPOSITORY}/pseudoattr/label}"
  [[ "${RESULTS_DIR}" == /* ]] || RESULTS_DIR="${PWD}/${RESULTS_DIR}"
  [[ "${LABEL_DIR}" == /* ]] || LABEL_DIR="${PWD}/${LABEL_DIR}"
}
