#!/usr/bin/env bash
# Make sure that a Python environment with all requirements exists: the active one (venv, conda, or
# whatever `python` is) or venv/ in this repository. If one of them has everything, nothing is
# installed; otherwise venv/ is made or completed.
#
#   bash jobs/setup.sh                       once; the jobs find the environment by themselves
#   bash jobs/setup.sh --dev                 test tools and ONNX too, which jobs/test.sh needs
#   PYTHON=python3.12 bash jobs/setup.sh     make venv/ with this Python (3.10 to 3.13)
#
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu bash jobs/setup.sh      torch for the CPU alone
#   TORCH_INDEX=https://download.pytorch.org/whl/cu126 bash jobs/setup.sh    torch for CUDA 12.6
#
# PyPI's torch for Linux is built for CUDA 13, which needs an NVIDIA driver of version 580 or
# newer; without a GPU it runs on the CPU. https://pytorch.org/get-started/previous-versions lists
# the builds for older drivers and AMD. Any other torch from 2.6 to 2.11 with the torchaudio of the
# same version and build will do as well: activate your own environment that has the pair, `pip
# install -e .` (with the test tools: `pip install -e '.[dev]'`): every job uses it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

case "${1:-}" in
  -h | --help) usage "$0"; exit 0 ;;
  --dev) set -- dev export ;;
  "") set -- ;;
  *) echo "unknown argument $1; see bash jobs/setup.sh --help" >&2; exit 2 ;;
esac

# pick_python: print one that can make venv/, or say in one line what to do.
pick_python() {
  local candidate version bare="" found=""
  local ask='import sys; print("%d.%d" % sys.version_info[:2])'
  set -- python3 python3.{13,12,11,10} python
  [[ -z "${PYTHON:-}" ]] || set -- "${PYTHON}"
  for candidate in "$@"; do
    version="$("${candidate}" -c "${ask}" 2> /dev/null)" || continue
    case "${version}" in
      3.10 | 3.11 | 3.12 | 3.13)
        if "${candidate}" -c 'import venv, ensurepip' 2> /dev/null; then
          echo "${candidate}"
          return
        fi
        bare="${bare:-${version}}" ;;
      *) found="${found:-, not ${version}}" ;;
    esac
  done
  if [[ -n "${bare}" ]]; then
    echo "this Python cannot make virtual environments: apt install python${bare}-venv" >&2
  else
    echo "needs Python 3.10 to 3.13${found}: install one, or name it:" \
      "PYTHON=/path/to/python3 bash jobs/setup.sh" >&2
  fi
  return 1
}

cd "${REPOSITORY}"
venv="${REPOSITORY}/venv"
venv_index=""   # where the torch in venv/ is from, if not from PyPI
if [[ -f "${venv}/torch_index" ]]; then venv_index="$(< "${venv}/torch_index")"; fi
index="${TORCH_INDEX:-${venv_index}}"

active="$(command -v python || true)"
if [[ "${active}" != "${venv}/bin/python" ]] && lacking="$(has_requirements python "$@")"; then
  echo "environment: ${active} (active)"
  exit 0
fi
if [[ "${index}" != "${venv_index}" && -e "${venv}" ]]; then
  echo "venv/ has torch from ${venv_index:-PyPI}; for another build remove it first:" \
    "rm -r '${venv}'" >&2
  exit 1
fi
if has_requirements "${venv}/bin/python" "$@" > /dev/null; then
  echo "environment: ${venv}"
  exit 0
fi

# An environment that the user made active but that is not used: say why before the download starts.
if [[ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" && -n "${lacking:-}" ]]; then
  echo "the active environment (${active}) lacks: ${lacking//$'\n'/, }"
fi

case "$(uname -sm)${index:+ ${index##*/}}" in
  "Linux x86_64")
    size="about 2.9 GB (torch for CUDA 13; CPU only is 0.4 GB: bash jobs/setup.sh --help),"
    size+=" 5.5 GB on disk" ;;
  *" cpu" | Darwin*) size="about 0.4 GB" ;;
  *) size="up to 5 GB" ;;
esac
works='import sys, pip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'
if "${venv}/bin/python" -c "${works}" 2> /dev/null; then
  echo "completing ${venv}: downloads what is missing of ${size}"
else
  python="$(pick_python)"
  echo "making ${venv}: downloads ${size}"
  "${python}" -m venv --clear "${venv}" || { rm -rf "${venv}"; exit 1; }
  if [[ -n "${index}" ]]; then echo "${index}" > "${venv}/torch_index"; fi
fi
install=("${venv}/bin/python" -m pip install --disable-pip-version-check)
if [[ -n "${index}" ]]; then
  # First the pair of exactly this build: its version (2.11.0+cpu) then satisfies the pin.
  grep -E '^torch(audio)?==' requirements.txt \
    | "${install[@]}" --no-deps --index-url "${index}" -r /dev/stdin
fi
"${install[@]}" ${index:+--extra-index-url "${index}"} -r requirements.txt
if ! lacking="$(has_requirements "${venv}/bin/python" "$@")"; then
  echo "${venv} still lacks ${lacking//$'\n'/, }: remove it and run this again" >&2
  exit 1
fi
echo "environment: ${venv}"
