#!/usr/bin/env bash
# The front door: makes the environment on first use, then does what was asked.
#
#   ./launch.sh quickstart [...]     real text to a tuned, evaluated, exported model (llmkit run quickstart)
#   ./launch.sh test [...]           the whole test suite, a process per core (arguments go to pytest)
#   ./launch.sh VERB [...]           any llmkit verb: train, eval, generate, launch, doctor, ...
#
# LLMKIT_PYTHON=/path/to/python    the Python to build with (3.11 or newer)
# LLMKIT_TORCH_INDEX=URL           where torch comes from; empty: pip's own index. On a Linux machine without an
#                                  NVIDIA GPU the default is PyTorch's CPU index, which saves gigabytes.
#
# Everything it installs lies in .venv beside this file; remove that to start again. It may be interrupted at any point.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$here/.venv
python=$venv/bin/python
log=$venv/setup.log
cpu_index=https://download.pytorch.org/whl/cpu

say() { printf '[llmkit] %s\n' "$*" >&2; }
die() { printf 'llmkit: %s\n' "$*" >&2; exit 2; }

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in ${LLMKIT_PYTHON:+"$LLMKIT_PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    if usable "$name"; then command -v "$name"; return; fi
    [ "$name" = "${LLMKIT_PYTHON:-}" ] && die "LLMKIT_PYTHON=$name: is not a Python of 3.11 or newer with venv"
  done
  die "no Python of 3.11 or newer with venv was found; install one (python3.11 and python3.11-venv), or set LLMKIT_PYTHON"
}

has_gpu() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; }

run_logged() {
  "$@" >>"$log" 2>&1 && return
  tail -n 5 "$log" >&2
  die "setup failed at: ${*: -1}; the whole output is in $log; run the same command to try again"
}

install() { run_logged "$python" -m pip install --disable-pip-version-check -c "$here/requirements.lock" "$@"; }

# torch first and alone, so that the right build is there before anything asks for one.
install_torch() {
  local wanted there index=${LLMKIT_TORCH_INDEX-}
  wanted=$(grep '^torch==' "$here/requirements.lock")
  there=$("$python" -m pip list --format=freeze 2>>"$log" | grep '^torch==' || true)
  if [ "${there%%+*}" = "$wanted" ]; then say "2/3 $there is there"; return; fi
  if [ -z "${LLMKIT_TORCH_INDEX+set}" ] && [ "$(uname -s)" = Linux ] && ! has_gpu; then
    if ! "$python" -m pip install --dry-run --no-deps --quiet --report - "$wanted" 2>>"$log" | grep -q '+cpu'; then
      index=$cpu_index
    fi
  fi
  say "2/3 $wanted${index:+ from $index}"
  install ${index:+--extra-index-url "$index" --retries 1} "$wanted"
}

# The environment is ready when its stamp names this lock, this pyproject and this Python. The stamp is written last.
stamp() { cat "$here/requirements.lock" "$here/pyproject.toml" "$venv/pyvenv.cfg" 2>/dev/null | cksum; }

ready() { [ -x "$python" ] && [ -e "$venv/$1.stamp" ] && [ "$(stamp)" = "$(cat "$venv/$1.stamp")" ]; }

setup() { # base | dev
  local what=$1 target=$here found
  ready "$what" && return
  mkdir -p "$venv"
  if command -v flock >/dev/null; then
    exec 9>"$venv/setup.lock"
    flock -n 9 || { say "another setup is at work in $venv; waiting for it"; flock 9; }
    ready "$what" && return
  fi
  say "setting up $venv ($what): some minutes, once"
  if "$python" -m pip --version >/dev/null 2>&1; then
    say "1/3 $("$python" -V) is there"
  else
    found=$(find_python)
    say "1/3 $("$found" -V) from $found"
    run_logged "$found" -m venv "$venv"
  fi
  ready base || install_torch
  [ "$what" = base ] || target="${here}[$what]"
  say "3/3 llmkit and what it needs"
  install -e "$target"
  for found in base "$what"; do stamp >"$venv/$found.stamp"; done
  exec 9>&-
  say "ready"
}

case "${1:-}" in
  "" | -h | --help)
    say "quickstart: real text to a tuned, evaluated, exported model; test: the whole suite; or one of these verbs"
    setup base
    set -- --help
    ;;
  test) setup dev; shift; cd "$here"; exec "$python" -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile "$@" ;;
  quickstart) setup base; shift; set -- run quickstart "$@" ;;
  *) setup base ;;
esac
exec "$python" -m llmkit "$@"
